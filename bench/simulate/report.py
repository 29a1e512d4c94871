"""What a simulation found, for people and for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from rich.markup import escape
from rich.table import Table

from antiphon.bench.serving.load import Run
from antiphon.bench.serving.summary import Summary, summarize
from antiphon.bench.simulate.check import TYPICAL, Checked, figures, summarize_all
from antiphon.bench.simulate.results import Simulated

__all__ = ["Bill", "bill", "check_record", "check_table", "record", "table"]

HOUR_S = 3600.0


@dataclass(frozen=True)
class Bill:
    """What the machines cost."""

    price_per_h: float
    """Of one replica, in US dollars"""
    replica_h: float
    speech_h: float
    """Of replies that are whole"""

    @property
    def per_speech_h(self) -> float | None:
        """Dollars for an hour of speech; None if there is none."""
        return self.replica_h * self.price_per_h / self.speech_h if self.speech_h else None


def bill(found: Simulated, price_per_h: float) -> Bill:
    """For the time of the simulation."""
    whole = [o.measured for o in found.outcomes if o.measured.failure is None]
    return Bill(price_per_h, found.replica_s / HOUR_S, sum(m.audio_s for m in whole) / HOUR_S)


def summary_of(found: Simulated) -> Summary:
    """As `bench serve` sums up what it measures."""
    return summarize(Run([o.measured for o in found.outcomes], found.duration_s), "simulated")


def table(found: Simulated, num_replicas: int, price_per_h: float, title: str, caption: str) -> Table:
    summary, costs = summary_of(found), bill(found, price_per_h)
    rows = Table(title=escape(title), caption=escape(caption), show_header=False)
    rows.add_column()
    rows.add_column(justify="right")

    def spread(name: str) -> str:
        one = summary.spreads.get(name)
        if one is None:
            return "-"
        return ", ".join(f"{1000 * value:.0f}" for value in (one.p50, one.p95, one.p99)) + " ms"

    per_h = costs.per_speech_h
    shown = {
        "GPUs": f"{num_replicas}"
        + (f", at most {found.most_replicas}" if found.most_replicas != num_replicas else ""),
        "requests": f"{summary.num_requests}, {summary.num_failed} failed",
        "time": f"{found.duration_s / HOUR_S:.2f} h",
        "speech": f"{costs.speech_h:.1f} h, {summary.audio_s_per_s:.1f} s/s",
        "first audio: median, p95, p99": spread("ttfa_s"),
        "whole reply: median, p95, p99": spread("e2el_s"),
        "replies without a gap": _percent(summary.continuity.get("0")),
        "gaps of a reply: median, p95, p99": spread("underrun_s"),
        "time in steps, in speech": f"{found.model_busy:.0%}, {found.speech_busy:.0%}",
        "requests in a step": f"{found.mean_rows:.1f}",
        "cache held at most": f"{found.cache_peak:.0%}, {found.num_preemptions} preemptions",
        "an hour of speech": "-" if per_h is None else f"$ {per_h:.3f} at $ {price_per_h:g} for a GPU's hour",
    }
    if found.num_failures:
        shown["replicas failed"] = str(found.num_failures)
    for kind, count in summary.failures.items():
        shown[f"failed: {kind}"] = str(count)
    for name, value in shown.items():
        rows.add_row(escape(name), escape(value))
    return rows


def record(found: Simulated, num_replicas: int, price_per_h: float) -> dict[str, Any]:
    """Plain values of the same."""
    costs = bill(found, price_per_h)
    kept = {name: value for name, value in vars(found).items() if name != "outcomes"}
    return {
        "num_replicas": num_replicas,
        **kept,
        "price_per_h": price_per_h,
        "replica_h": costs.replica_h,
        "speech_h": costs.speech_h,
        "dollars_per_speech_h": costs.per_speech_h,
        "summary": asdict(summary_of(found)),
    }


def check_table(found: Sequence[Checked], title: str) -> Table:
    """Under each load, a row for each figure."""
    rows = Table(
        title=escape(title),
        caption="s/s: speech in a second; times in seconds; runs: the least and the most of them",
    )
    rows.add_column("load", no_wrap=True)
    for name in ("measured", "runs", "simulated", "apart"):
        rows.add_column(name, justify="right", no_wrap=True)
    for checked in found:
        rows.add_row(f"[bold]{escape(checked.load)}")
        for name, each in figures(checked).items():
            runs = "" if name == TYPICAL else f"{_short(each.least)}-{_short(each.most)}"
            rows.add_row(
                f"  {name}", _short(each.measured), runs, _short(each.simulated), f"{each.apart:+.0%}"
            )
        rows.add_section()
    return rows


def check_record(checked: Checked) -> dict[str, Any]:
    """Plain values of a load."""
    return {
        "load": checked.load,
        "figures": {
            name: asdict(each) | {"apart": each.apart, "is_within": each.is_within}
            for name, each in figures(checked).items()
        },
        "measured": asdict(summarize_all(checked.measured)),
        "simulated": asdict(summarize_all(chain.from_iterable(checked.simulated))),
        "first_audio_s": {
            name: [
                [reply.ttfa_s for reply in sorted(run.replies, key=lambda reply: reply.due_s)] for run in runs
            ]
            for name, runs in (("measured", checked.measured), ("simulated", checked.simulated[0]))
        },
    }


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
