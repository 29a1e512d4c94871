"""The results of `antiphon bench kernels` as a table, CSV, JSON, and a roofline plot."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from antiphon.bench.kernel_runs import KernelRun, Peaks
from antiphon.bench.options import write_record
from antiphon.files.writing import written_whole
from antiphon.kernels import ops

__all__ = ["Conditions", "check_plot", "plot_roofline", "table", "write_csv", "write_json"]

MARKERS = "osD^v<>PX*hpd"


@dataclass(frozen=True)
class Conditions:
    """What a reader needs in order to compare rows of different days."""

    device: str
    threads: int
    torch: str
    antiphon: str
    date: str
    command: str
    other_cores: float | None
    """How many cores others kept busy meanwhile"""


def table(runs: Sequence[KernelRun], peaks: Peaks, title: str) -> Table:
    rates = f"{peaks.bytes_per_s / 1e9:.1f} GB/s and {peaks.ops_per_s / 1e9:.0f} GFLOP/s"
    found = Table(
        title=title,
        caption=f"floor: bytes and operations at the measured {rates}; cached: faster, since caches helped; "
        "x torch: times as fast as plain PyTorch, in the same turns",
        padding=(0, 1, 0, 0),
        box=None,
        pad_edge=False,
    )
    for name in ("shape", "way"):
        found.add_column(name, no_wrap=True)
    for name in ("time", "rate", "floor", "x torch"):
        found.add_column(name, justify="right", no_wrap=True)
    op = shape = ""
    for run in runs:
        if run.op != op:
            op, shape = run.op, ""
            found.add_row(f"[bold]{op}")
        found.add_row(
            f" {run.shape}" if run.shape != shape else "",
            run.way,
            format_s(run.median_s),
            _rate(run),
            run.no_floor if run.share_of_floor is None else f"{run.share_of_floor:.0%}",
            f"{run.times_torch:.3g}",
        )
        shape = run.shape
    return found


def _rate(run: KernelRun) -> str:
    """Bytes or operations a second, whichever bounds it."""
    value, unit = (run.bytes_per_s, "GB/s") if run.bound == "memory" else (run.ops_per_s, "GFLOP/s")
    return f"{value / 1e9:.0f} {unit}" if value >= 100e9 else f"{value / 1e9:.1f} {unit}"


def format_s(seconds: float) -> str:
    """With three digits and the unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def write_json(runs: Sequence[KernelRun], peaks: Peaks, conditions: Conditions, path: Path) -> None:
    record = asdict(conditions) | {"peaks": asdict(peaks), "runs": [asdict(run) for run in runs]}
    write_record(path, record)


def write_csv(runs: Sequence[KernelRun], peaks: Peaks, conditions: Conditions, path: Path) -> None:
    """Each row carries its conditions, so that rows of several files can be put together."""
    beside = asdict(conditions) | {f"peak_{name}": value for name, value in asdict(peaks).items()}
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(KernelRun)] + list(beside))
        writer.writeheader()
        writer.writerows(asdict(run) | beside for run in runs)


def check_plot(path: Path) -> None:
    """Raises ImportError, naming the extra, without matplotlib, and ValueError for a file that it cannot
    write."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as missing:
        raise ImportError("a plot needs matplotlib: pip install 'antiphon[bench]'") from missing

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"expected a file named .{', .'.join(sorted(known))}, got {path.name}")


def plot_roofline(runs: Sequence[KernelRun], peaks: Peaks, title: str, path: Path) -> None:
    """For each shape, the backend that runs unless another is named: operations per second over operations
    per byte (Williams et al. 2009, "Roofline"), and bytes per second over bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    figure.suptitle(title)
    products, movers = figure.subplots(1, 2)
    ours = [run for run in _best(runs) if run.num_ops]
    intensities = [run.num_ops / run.num_bytes for run in ours] or [1.0]
    low, high = min(intensities) / 2, max(*intensities, peaks.ops_per_s / peaks.bytes_per_s) * 2
    ridge = peaks.ops_per_s / peaks.bytes_per_s
    products.plot(
        [low, ridge, high], [low * peaks.bytes_per_s, peaks.ops_per_s, peaks.ops_per_s], color="0.4"
    )
    _scatter(products, ours, lambda run: run.num_ops / run.num_bytes, lambda run: run.ops_per_s)
    products.set(xlabel="operations per byte", ylabel="operations/s", title="Products and attention")
    movers.axhline(peaks.bytes_per_s, color="0.4")
    _scatter(movers, _best(runs), lambda run: run.num_bytes, lambda run: run.bytes_per_s)
    movers.set(
        xlabel="bytes of a call", ylabel="bytes/s", title="All ops: the line is the measured bandwidth"
    )
    with written_whole(path) as part:
        figure.savefig(part, dpi=120)


def _best(runs: Sequence[KernelRun]) -> list[KernelRun]:
    """For each shape, the backend that is tried first."""
    found: dict[tuple[str, str], KernelRun] = {}
    for run in runs:
        found.setdefault((run.op, run.shape), run)
    return list(found.values())


def _scatter(
    axes: Any, runs: Sequence[KernelRun], x: Callable[[KernelRun], float], y: Callable[[KernelRun], float]
) -> None:
    """An op has the same marker and colour wherever it is drawn."""
    for op in dict.fromkeys(run.op for run in runs):
        of_op, index = [run for run in runs if run.op == op], ops().index(op)
        look = {"marker": MARKERS[index % len(MARKERS)], "color": f"C{index % 10}"}
        axes.scatter([x(run) for run in of_op], [y(run) for run in of_op], label=op, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize="small", ncols=2)
