"""Two targets that were asked the same in turns: by how much one differs from the other, and how certain that
is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from antiphon.bench.serving.load import Run
from antiphon.bench.serving.summary import Summary, summarize

__all__ = ["COMPARED", "Change", "change_of"]

DRAWS = 4000
LEAST_TURNS = 3
"""Fewer say nothing about chance."""
COMPARED: dict[str, Callable[[Summary], float]] = {
    "first audio, mean": lambda s: s.spreads["ttfa_s"].mean,
    "first audio, median": lambda s: s.spreads["ttfa_s"].p50,
    "speech, s/s": lambda s: s.audio_s_per_s,
}


@dataclass(frozen=True)
class Change:
    """One figure of one target, as a share of another's in the same turn, less 1."""

    load: str
    target: str
    against: str
    figure: str
    mean: float
    """Over the turns"""
    least: float
    most: float
    """Bounds of 95 %, by drawing turns again and again"""
    turns: Sequence[float]


def change_of(
    load: str, targets: tuple[str, str], ours: Sequence[Run], theirs: Sequence[Run], seed: int = 0
) -> list[Change]:
    """targets: whose runs these are. Nothing for fewer turns than `LEAST_TURNS`, or if one has no reply."""
    pairs = [(summarize(a, ""), summarize(b, "")) for a, b in zip(ours, theirs, strict=True)]
    if len(pairs) < LEAST_TURNS or not all("ttfa_s" in s.spreads for pair in pairs for s in pair):
        return []
    rng, changes = np.random.default_rng(seed), []
    drawn = rng.integers(0, len(pairs), (DRAWS, len(pairs)))
    for name, figure in COMPARED.items():
        logs = np.log([figure(a) / figure(b) for a, b in pairs])  # so that twice and half are as far
        least, most = np.percentile(logs[drawn].mean(axis=1), (2.5, 97.5))
        mean, low, high = (float(np.expm1(value)) for value in (logs.mean(), least, most))
        changes.append(Change(load, *targets, name, mean, low, high, np.expm1(logs).tolist()))
    return changes
