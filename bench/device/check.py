"""`python -m antiphon.bench.device`: what only a machine with a GPU can show, in at most eight minutes."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from antiphon.bench.device.measured import Outcome, measure
from antiphon.bench.device.measuring import MEASURED
from antiphon.bench.device.tested import TESTED, run_tests
from antiphon.bench.options import check_output, device_name, read_device, record_of, write_record

__all__ = ["run"]

LIMITS_S = {
    "heads": 60.0,
    "soft_embedding": 45.0,
    "attention": 45.0,
    "steps": 100.0,
    "int8_steps": 150.0,
    "codec": 90.0,
    "speech": 90.0,
    "linear": 45.0,
    "int8": 60.0,
    "capture": 20.0,
    "tests": 150.0,
    "goldens": 60.0,
    "sanitizer": 60.0,
}
"""Each section's own; together they are more than there is, and the last ones take what is left."""
PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "onnxruntime",
    "safetensors",
    "tokenizers",
    "flash-attn",
    "flashinfer-python",
)


def run(
    only: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Some of {', '.join(LIMITS_S)}, separated by commas.")
    ] = "",
    device: Annotated[str, typer.Option(help="cuda, cuda:1 ..., or cpu for a dry run.")] = "cuda",
    small: Annotated[
        bool, typer.Option("--small", help="A dry run: tiny sizes, no tests unless named.")
    ] = False,
    limit_s: Annotated[float, typer.Option(min=1.0, help="Seconds for all together.")] = 480.0,
    json_out: Annotated[
        Path, typer.Option("--json", metavar="FILE", help="Where the figures are written.")
    ] = Path("device-check.json"),
) -> None:
    """Test and measure what only a machine with a GPU can show. Each section has a time limit and fails
    alone; the exit status is 1 if any did."""
    deadline = time.perf_counter() + limit_s
    names = read_names(only, small)
    place = read_device(device)
    if place.type == "cpu" and not small:
        raise typer.BadParameter("expected a GPU, or --small for a dry run", param_hint="--device")
    check_output(json_out, "--json")
    console = Console(stderr=True)
    outcomes = measure(
        str(place),
        {name: LIMITS_S[name] for name in names if name in MEASURED},
        is_small=small,
        deadline=deadline,
        progress=lambda name: console.print(f"{name} ..."),
    )
    for name in names:
        if name in TESTED:
            console.print(f"{name} ...")
            left_s = deadline - time.perf_counter()
            outcomes[name] = run_tests(name, min(LIMITS_S[name], left_s)) if left_s > 1 else Outcome()
    title = f"{device_name(place)}, torch {torch.__version__}"
    Console().print(table_of(title, outcomes))
    for name, outcome in outcomes.items():
        if outcome.error:
            console.print(f"{name}: {outcome.error}", style="red", markup=False, highlight=False)
    command = f"python -m antiphon.bench.device {shlex.join(sys.argv[1:])}".strip()
    sections = {name: asdict(outcome) for name, outcome in outcomes.items()}
    write_record(json_out, record_of(title, command, machine=machine_of(place), sections=sections))
    if any(outcome.status in ("failed", "timed out", "not run") for outcome in outcomes.values()):
        raise typer.Exit(1)


def read_names(only: str, small: bool) -> list[str]:
    """The sections to run, in their order; those of tests only where they are named, in a dry run."""
    if not only:
        return list(MEASURED) if small else list(LIMITS_S)
    wanted = [name.strip() for name in only.split(",")]
    unknown = [name for name in wanted if name not in LIMITS_S]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join(LIMITS_S)}, got {only!r}", param_hint="--only")
    return [name for name in LIMITS_S if name in wanted]


def machine_of(place: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    found: dict[str, Any] = {"device": device_name(place), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if place.type == "cuda":
        properties = torch.cuda.get_device_properties(place)
        found |= {
            "cuda": torch.version.cuda,
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
        }
    return found


def table_of(title: str, outcomes: dict[str, Outcome]) -> Table:
    table = Table(
        title=title,
        caption="floor: the bytes that have to be read, at the bandwidth measured here; of the codec, its "
        "arithmetic at the rate of a large product",
    )
    for name in ("section", "what"):
        table.add_column(name)
    for name in ("value", "floor", "times"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for name, outcome in outcomes.items():
        table.add_row(name, outcome.status, f"{outcome.took_s:.1f} s", "", "", "", style="bold")
        for figure in outcome.figures:
            floor = figure.get("floor")
            table.add_row(
                "",
                figure["name"],
                f"{shown(figure['value'])} {figure['unit']}",
                shown(floor) if floor else "",
                f"{figure['value'] / floor:.2f}" if floor else "",
                figure.get("note", ""),
            )
        table.add_section()
    return table


def shown(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
