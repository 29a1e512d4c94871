"""The same task under several settings, and its figure against its time in one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from antiphon.evaluation.extras import needed
from antiphon.evaluation.report import Figure, Report
from antiphon.evaluation.scoring import METRICS, TIMES
from antiphon.files.writing import written_whole

__all__ = ["Point", "draw_sweep", "grid", "point_of"]

TIME_KEYS = ("time_ms", "rtf", "reply_ms")
"""What stands on the axis of time: the first of these that was taken"""


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    figure: Figure
    """The task's first"""
    time: Figure | None


def grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of axes that have any."""
    used = {name: values for name, values in axes.items() if values}
    for values in product(*used.values()):
        yield dict(zip(used, values, strict=True))


def point_of(name: str, report: Report) -> Point:
    last = report.figures[-1].group  # "all", where there are several sets
    found = {figure.key: figure for figure in report.figures if figure.group == last}
    keys = [metric.key for metric in METRICS[report.task] if metric.key in found and metric.key not in TIMES]
    time = next((found[key] for key in TIME_KEYS if key in found), None)
    return Point(name, found["speech" if "speech" in keys else keys[0]], time)


def draw_sweep(points: Sequence[Point], title: str, path: Path) -> None:
    """Each run as a point with its interval; without times, side by side. Raises ConfigError without the
    extra."""
    needed("matplotlib", "the picture of a sweep")
    from matplotlib.figure import Figure as Picture

    has_times = all(point.time is not None for point in points)
    picture = Picture(figsize=(8, 5), layout="constrained")
    axes = picture.subplots()
    for number, point in enumerate(points):
        x = point.time.value if has_times and point.time is not None else float(number)
        value = point.figure.value
        errors = [[value - point.figure.low], [point.figure.high - value]]
        axes.errorbar(
            [x], [value], yerr=errors, fmt="o", capsize=3, color=f"C{number % 10}", label=point.name
        )
    first = points[0]
    if has_times and first.time is not None:
        axes.set_xlabel(f"{first.time.label}{f', {first.time.unit}' if first.time.unit else ''}")
        axes.set_xlim(left=0)
    else:
        axes.set_xticks(range(len(points)), [point.name for point in points], rotation=30, ha="right")
    axes.set_ylabel(f"{first.figure.label}, {first.figure.unit}")
    axes.set_title(title)
    axes.grid(alpha=0.2)
    axes.legend(fontsize="small")
    with written_whole(path) as part:
        picture.savefig(part, dpi=120, format="png")
