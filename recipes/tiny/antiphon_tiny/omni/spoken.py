"""What was spoken, as units with its text, and rows of the speech track that are made of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from antiphon_tiny.omni.conversations import Layout
from antiphon_tiny.world.samples import draw_sample
from antiphon_tiny.world.wordings import said_back

__all__ = [
    "POOL",
    "Recordings",
    "SpokenRow",
    "TrackBatch",
    "Utterance",
    "Utterances",
    "frames_needed",
    "history",
    "of_like_length",
    "read_utterances",
    "track_batch",
]

T = TypeVar("T")

HEARD = ("heart", "disguised", "slt", "rms", "awb", "slt_hts", "kal16", "kal", "kal_diphone", "espeak")
"""Sets whose utterances are heard, in surroundings of all kinds."""
POOL = 4
"""Batches that are drawn at once for `of_like_length`."""
OWN = "heart"
"""The speaking voice, undisturbed: what is said, and heard back."""


@dataclass(frozen=True)
class Utterance:
    text: str
    units: list[int]
    """From 0."""
    text_ids: list[int]
    """Those that CTC is to read."""


class Recordings(Protocol):
    """What training hears and says."""

    own: list[Utterance]
    """Of the speaking voice, undisturbed: what is said, and heard back."""
    heard: list[Utterance]


class Utterances:
    """All recordings of "speech-data"."""

    def __init__(self, work: Path, layout: Layout) -> None:
        self.own = read_utterances(work, OWN, layout)
        self.heard = [said for name in HEARD for said in read_utterances(work, f"{name}_heard", layout)]
        self.by_text: dict[str, list[Utterance]] = {}
        for utterance in self.heard:
            self.by_text.setdefault(utterance.text, []).append(utterance)
        self.to_say = [turn for text in self.by_text if (turn := said_back(text)) is not None]
        """What was spoken that asks to be said after. Hardly any of it would be drawn again."""


def read_utterances(work: Path, name: str, layout: Layout) -> list[Utterance]:
    """One of the sets that the stage "encode" wrote, without utterances that have too few frames for CTC."""
    from antiphon_tiny.speech.encode import read_units

    rows = read_units(work, name)
    said = [Utterance(row["text"], row["units"], layout.encode(row["text"])) for row in rows]
    return [utterance for utterance in said if len(utterance.units) >= frames_needed(utterance)]


def frames_needed(utterance: Utterance) -> int:
    """What CTC needs to read it: one for each label, and a blank between equal ones."""
    ids = utterance.text_ids
    return len(ids) + sum(a == b for a, b in pairwise(ids))


@dataclass
class SpokenRow:
    """What follows the prefix in the speech track: ids of text, and utterances."""

    pieces: list[list[int] | Utterance] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(piece.units if isinstance(piece, Utterance) else piece) for piece in self.pieces)


def of_like_length(rng: random.Random, rows: Sequence[T], length: Callable[[T], int]) -> list[T]:
    """One of `POOL` equal parts of these rows, sorted by length, drawn at random: little of such a batch is
    padding, and no row comes more often than another."""
    count = len(rows) // POOL
    start = rng.randrange(POOL) * count
    return sorted(rows, key=length)[start : start + count]


@dataclass(frozen=True)
class TrackBatch:
    ids: Tensor
    """int64 (rows, length): text ids, and units from `first_unit` on"""
    positions: Tensor
    mask: Tensor
    """bool (rows, length, prefix + length)"""
    is_text: Tensor
    """bool (rows, length)"""
    spans: list[tuple[int, int, Utterance]]
    """Row and first place of each utterance"""


def track_batch(rows: Sequence[SpokenRow], prefix_length: int, first_unit: int) -> TrackBatch:
    flat: list[list[int]] = []
    spans = []
    for r, row in enumerate(rows):
        ids: list[int] = []
        for piece in row.pieces:
            if isinstance(piece, Utterance):
                spans.append((r, len(ids), piece))
                ids += [first_unit + unit for unit in piece.units]
            else:
                ids += piece
        flat.append(ids)
    length = max(len(ids) for ids in flat)
    table = torch.full((len(rows), length), -1)
    for r, ids in enumerate(flat):
        table[r, : len(ids)] = torch.tensor(ids)
    positions = (prefix_length + torch.arange(length)).expand_as(table)
    mask = torch.ones(length, prefix_length + length, dtype=torch.bool).tril(prefix_length)
    is_text = (table >= 0) & (table < first_unit)
    return TrackBatch(table.clamp(min=0), positions, mask.expand(len(rows), -1, -1), is_text, spans)


def history(layout: Layout, rng: random.Random) -> list[int]:
    """An earlier question and its answer, typed, up to the content of the next question."""
    turn = draw_sample(rng, "train", pictures=0.3, max_turns=1).turns[0]
    asked, said = layout.encode(turn.question), layout.encode(turn.answer)
    return [*asked, *layout.closing, *said, layout.eot, *layout.opening]
