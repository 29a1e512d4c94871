"""`antiphon bench kernels`: each op at the shapes of serving, against its floor and plain PyTorch."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from antiphon.bench.kernel_report import Conditions, check_plot, plot_roofline, table, write_csv, write_json
from antiphon.bench.kernel_runs import KernelRun, bench_op, measure_peaks
from antiphon.bench.kernels.case import Setting
from antiphon.bench.options import (
    Config,
    Device,
    Dtype,
    JsonFile,
    Threads,
    check_output,
    device_name,
    dtype_name,
    read_config,
    read_device,
    read_dtype,
    use_threads,
)
from antiphon.bench.other_load import OtherLoad, too_busy
from antiphon.bench.sizes import read_sizes
from antiphon.kernels import ops
from antiphon.process.footprint import use_passing_caches

__all__ = ["run"]


def run(
    op: Annotated[str, typer.Option(help="Only these ops, separated by commas.")] = "",
    config: Config = "auto",
    dtype: Dtype = "auto",
    device: Device = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each way; the median counts.")] = 15,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the first shape of each op, three turns.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile of the reference.")] = False,
    threads: Threads = 0,
    csv_out: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write CSV.")] = None,
    json_out: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw a roofline plot, .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Time of each op and backend, share of what the device can do, and ratio to plain PyTorch.

    Bytes and operations are counted from the shapes: each input read and each output written once. They are
    compared with the bandwidth and the matrix rate, which are measured first.
    """
    names = _ops(op)
    place = read_device(device)
    config = read_config(config, place)
    setting = Setting(read_sizes(config), read_dtype(dtype, place), place)
    if compiled or plot:
        use_passing_caches()
    _check_outputs(csv_out, json_out, plot)
    use_threads(threads)
    torch.manual_seed(0)
    others = OtherLoad()
    peaks = measure_peaks(setting)
    runs: list[KernelRun] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            runs += bench_op(
                name,
                setting,
                peaks,
                repeats=3 if quick else repeats,
                num_shapes=1 if quick else None,
                compiled=compiled,
            )
            progress.advance(task)
    conditions = _conditions(setting, names if op else [], config, repeats, quick, compiled, others.cores)
    title = f"{config}, {dtype_name(setting.dtype)}, {conditions.device}, torch {conditions.torch}"
    Console().print(table(runs, peaks, title))
    if (why := too_busy(conditions.other_cores) or _impossible(runs)) is not None:
        Console().print(f"[bold red]{why}")
    if json_out:
        write_json(runs, peaks, conditions, json_out)
    if csv_out:
        write_csv(runs, peaks, conditions, csv_out)
    if plot:
        plot_roofline(runs, peaks, title, plot)


def _impossible(runs: list[KernelRun]) -> str | None:
    """What to say of runs that were faster than they can be."""
    count = sum(run.no_floor == "busy" for run in runs)
    if not count:
        return None
    return (
        f"{count} of {len(runs)} ways were faster than this machine is: it was busy while its bandwidth and "
        "matrix rate were measured. These figures are no result; measure again"
    )


def _check_outputs(csv_out: Path | None, json_out: Path | None, plot: Path | None) -> None:
    """Check now what would fail after minutes of measuring."""
    for hint, path in (("--csv", csv_out), ("--json", json_out), ("--plot", plot)):
        check_output(path, hint)
    if plot is not None:
        try:
            check_plot(plot)
        except (ImportError, ValueError) as wrong:
            raise typer.BadParameter(str(wrong), param_hint="--plot") from wrong


def _ops(names: str) -> list[str]:
    chosen = [name.strip() for name in names.split(",")] if names else ops()
    for name in chosen:
        if name not in ops():
            raise typer.BadParameter(f"expected some of {', '.join(ops())}, got {name!r}", param_hint="--op")
    return chosen


def _conditions(
    setting: Setting,
    names: list[str],
    config: str,
    repeats: int,
    quick: bool,
    compiled: bool,
    other_cores: float | None,
) -> Conditions:
    options = [
        f"--op {','.join(names)}" if names else "",
        f"--config {config}",
        f"--dtype {dtype_name(setting.dtype)}",
        f"--device {setting.device.type}",
        "--quick" if quick else f"--repeats {repeats}",
        "--compile" if compiled else "",
    ]
    return Conditions(
        device=device_name(setting.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        antiphon=version("antiphon"),
        date=date.today().isoformat(),
        command=" ".join(["antiphon bench kernels", *filter(None, options)]),
        other_cores=other_cores,
    )
