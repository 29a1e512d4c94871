"""Summaries as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from antiphon.bench.serving.comparing import Change
from antiphon.bench.serving.load import LATE_S
from antiphon.bench.serving.summary import BUFFERS_MS, METRICS, Spread, Summary, breaking_rate

__all__ = ["changed", "tables", "verdict"]

SHOWN = {
    "ttft_s": "first text",
    "ttfa_s": "first audio",
    "tpot_s": "per token",
    "rtf": "rtf",
    "e2el_s": "whole reply",
    "underrun_s": "underrun",
}
assert tuple(SHOWN) == METRICS


def tables(found: Sequence[Summary], title: str) -> list[Table]:
    """What each load amounts to; the times of each; and what a server adds to the engine in process."""
    shown = [_loads(found, title), _times(found)]
    if {summary.target for summary in found} == {"HTTP", "in process"}:
        shown.append(_added(found))
    return shown


def verdict(found: Sequence[Summary], limit_ms: float) -> str:
    """The rates at which first audio comes too late, in a sentence for each target; failures by kind."""
    lines = []
    for target in dict.fromkeys(summary.target for summary in found):
        of_target = [summary for summary in found if summary.target == target]
        rates = [summary.rate for summary in of_target if summary.rate is not None]
        if rates:
            broken = breaking_rate(of_target, limit_ms / 1000)
            told = f"at {broken:g}/s" if broken is not None else f"at no rate up to {max(rates):g}/s"
            lines.append(f"{target}: p95 of the time to first audio exceeds {limit_ms:g} ms {told}")
        lines += [
            f"{target}, {summary.load}: {count} x {kind}"
            for summary in of_target
            for kind, count in summary.failures.items()
        ]
    return "\n".join(lines)


def changed(change: Change) -> str:
    """In a sentence."""
    return (
        f"{change.target}, {change.load}: {change.figure} {change.mean:+.1%} against {change.against} "
        f"(95 %: {change.least:+.1%} to {change.most:+.1%}, {len(change.turns)} turns)"
    )


def _loads(found: Sequence[Summary], title: str) -> Table:
    table = _table(
        f"failed: without a whole reply; late: sent more than {1000 * LATE_S:g} ms after it was due; no gap: "
        f"replies that a player plays without one if it buffers {' or '.join(map(str, BUFFERS_MS))} ms",
        escape(title),
    )
    for name in _beside(found):
        table.add_column(name, no_wrap=True)
    gaps = [f"no gap, {ms} ms" for ms in BUFFERS_MS]
    for name in ("asked", "failed", "late", "replies/s", "audio s/s", *gaps):
        table.add_column(name, justify="right")
    for summary in found:
        table.add_row(
            *_beside(found, summary),
            str(summary.num_requests),
            str(summary.num_failed),
            "" if summary.rate is None else str(summary.num_late),
            f"{summary.requests_per_s:.2f}",
            f"{summary.audio_s_per_s:.2f}",
            *(f"{summary.continuity[str(ms)]:.0%}" if summary.continuity else "" for ms in BUFFERS_MS),
        )
    return table


def _table(caption: str, title: str | None = None) -> Table:
    return Table(title=title, caption=caption, box=None, padding=(0, 1, 0, 0), pad_edge=False)


def _beside(found: Sequence[Summary], summary: Summary | None = None) -> list[str]:
    """The first cells of a row, or of the header: the target is told where there are several."""
    cells = ["load", "target"] if summary is None else [summary.load, summary.target]
    return cells if len({each.target for each in found}) > 1 else cells[:1]


def _times(found: Sequence[Summary]) -> Table:
    table = _table(
        "times in ms from when a request was due, as its client sees them; rtf: time to the last samples, "
        "by the length of the speech; underrun: how long a player without a buffer has nothing to play"
    )
    for name in (*_beside(found), "time"):
        table.add_column(name, no_wrap=True)
    for name in ("mean", "p50", "p95", "p99"):
        table.add_column(name, justify="right")
    for summary in found:
        beside = _beside(found, summary)
        for name, spread in summary.spreads.items():
            table.add_row(*beside, SHOWN[name], *_figures(name, spread))
            beside = [""] * len(beside)
    return table


def _added(found: Sequence[Summary]) -> Table:
    """The server's own cost: its times, less those of the engine in process, under the same load."""
    table = _table("HTTP less in process, in ms")
    table.add_column("load", no_wrap=True)
    columns = [("ttft_s", "p50"), ("ttfa_s", "p50"), ("ttfa_s", "p95"), ("e2el_s", "p50"), ("tpot_s", "p50")]
    for name, which in columns:
        table.add_column(f"{SHOWN[name]}, {which}", justify="right")
    for server, engine in zip(found[::2], found[1::2], strict=True):
        cells = []
        for name, which in columns:
            if name in server.spreads and name in engine.spreads:
                added_s = getattr(server.spreads[name], which) - getattr(engine.spreads[name], which)
                cells.append(f"{1000 * added_s:+.1f}")
            else:
                cells.append("")
        table.add_row(server.load, *cells)
    return table


def _figures(name: str, spread: Spread) -> list[str]:
    values = (spread.mean, spread.p50, spread.p95, spread.p99)
    if name == "rtf":
        return [f"{value:.2f}" for value in values]
    return [f"{1000 * value:.2f}" if name == "tpot_s" else f"{1000 * value:.0f}" for value in values]
