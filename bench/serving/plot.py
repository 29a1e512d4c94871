"""First audio, throughput and continuity over the load, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphon.bench.serving.summary import BUFFERS_MS, Summary
from antiphon.files.writing import written_whole

__all__ = ["plot_load"]


def plot_load(summaries: Sequence[Summary], limit_s: float, title: str, path: Path) -> None:
    """A row for closed loops, and one for open loops, where there are any; a colour for each target."""
    from matplotlib.figure import Figure

    loops = [
        (name, found)
        for name, found in (
            ("requests at a time", [s for s in summaries if s.rate is None]),
            ("requests per second", [s for s in summaries if s.rate is not None]),
        )
        if found
    ]
    figure = Figure(figsize=(14, 4.5 * len(loops)), layout="constrained")
    figure.suptitle(title)
    rows = figure.subplots(len(loops), 3, squeeze=False)
    for row, (xlabel, found) in zip(rows, loops, strict=True):
        for number, target in enumerate(dict.fromkeys(s.target for s in found)):
            _draw(row, [s for s in found if s.target == target], target, f"C{number}")
        row[0].axhline(1000 * limit_s, color="0.4", linewidth=1, linestyle=":")
        row[0].set(xlabel=xlabel, ylabel="ms", title="Time to first audio")
        row[1].set(xlabel=xlabel, ylabel="audio seconds per second", title="Throughput")
        row[2].set(xlabel=xlabel, ylabel="share of replies", ylim=(-0.03, 1.03), title="Played without a gap")
        for axes in row[:2]:
            axes.set_ylim(bottom=0)
        for axes in row:
            axes.grid(alpha=0.2)
            axes.legend(fontsize="small")
    with written_whole(path) as part:
        figure.savefig(part, dpi=120)


def _draw(row: Any, found: list[Summary], target: str, colour: str) -> None:
    found = sorted(found, key=lambda s: s.rate or s.concurrency or 0)
    heard, played = [s for s in found if "ttfa_s" in s.spreads], [s for s in found if s.continuity]
    for name, style in (("p50", "o-"), ("p95", "s--")):
        times_ms = [1000 * getattr(s.spreads["ttfa_s"], name) for s in heard]
        row[0].plot(_loads(heard), times_ms, style, color=colour, label=f"{target}, {name}")
    row[1].plot(_loads(found), [s.audio_s_per_s for s in found], "o-", color=colour, label=target)
    for ms, style in ((str(BUFFERS_MS[0]), "o-"), (str(BUFFERS_MS[-1]), "s--")):
        shares = [s.continuity[ms] for s in played]
        row[2].plot(_loads(played), shares, style, color=colour, label=f"{target}, buffer of {ms} ms")


def _loads(found: list[Summary]) -> list[float]:
    return [s.rate or s.concurrency or 0 for s in found]
