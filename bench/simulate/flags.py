"""What the flags of `antiphon bench simulate` mean, or what is wrong with them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import typer

from antiphon.bench.options import read_counts
from antiphon.bench.serving.measuring import Load
from antiphon.bench.simulate.costs import Costs
from antiphon.bench.simulate.floors import BYTES, FloorCosts
from antiphon.bench.simulate.gpus import GPUS
from antiphon.bench.simulate.measured import MeasuredCosts, read_costs
from antiphon.bench.simulate.scaling import Autoscaling
from antiphon.bench.simulate.traffic import Arrival, day, read_trace
from antiphon.bench.sizes import model_configs
from antiphon.config import EngineConfig
from antiphon.errors import ConfigError

__all__ = [
    "CHECK_LOADS",
    "engine_settings",
    "read_costs_file",
    "read_loads",
    "read_replicas",
    "read_scaling",
    "read_times",
    "read_traffic",
    "refuse",
]

MAX_DAY = 10**8
MEASURED_PRICE = 0.10
CHECK_LOADS = "1,4,16"


def read_times(
    gpu: str | None,
    costs: Path | None,
    config: str,
    weights: str,
    efficiency: float,
    codec_efficiency: float,
    max_num_seqs: int | None,
) -> tuple[Costs, float, str]:
    """The times, the usual price of a replica's hour, and where they are from."""
    if (gpu is None) == (costs is None):
        raise typer.BadParameter("expected either this or --costs", param_hint="--gpu")
    if costs is not None:
        measured = read_costs_file(costs)
        return measured, MEASURED_PRICE, f"simulated from times measured on {measured.machine}"
    assert gpu is not None
    if gpu not in GPUS:
        raise typer.BadParameter(f"expected one of {', '.join(GPUS)}, got {gpu!r}", param_hint="--gpu")
    if config not in model_configs():
        known = ", ".join(model_configs())
        raise typer.BadParameter(f"expected one of {known}, got {config!r}", param_hint="--config")
    if weights not in BYTES:
        raise typer.BadParameter(f"expected {' or '.join(BYTES)}, got {weights!r}", param_hint="--weights")
    for hint, share in (("--efficiency", efficiency), ("--codec-efficiency", codec_efficiency)):
        if not 0 < share <= 1:
            raise typer.BadParameter(f"expected a share above 0 and up to 1, got {share:g}", param_hint=hint)
    floors = FloorCosts(
        GPUS[gpu],
        config,
        weights,
        efficiency,
        codec_efficiency,
        EngineConfig(**engine_settings(max_num_seqs)),
    )
    try:
        floors.served  # noqa: B018 - whether it fits
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu") from error
    caption = f"simulated from data-sheet floors at {efficiency:.0%} efficiency for steps and "
    caption += f"{codec_efficiency:.0%} for speech; not measured"
    return floors, GPUS[gpu].price_per_h, caption


def engine_settings(max_num_seqs: int | None) -> dict[str, Any]:
    return {} if max_num_seqs is None else {"max_num_seqs": max_num_seqs}


def read_costs_file(path: Path) -> MeasuredCosts:
    try:
        return read_costs(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--costs") from error


def read_traffic(name: str) -> list[Arrival]:
    if name.startswith("day:"):
        match = re.fullmatch(r"day:([0-9]{1,9})(?::([0-9]{1,18}))?", name)
        count = 0 if match is None else int(match[1])
        if match is None or not 1 <= count <= MAX_DAY:
            raise typer.BadParameter(
                f"expected day:N or day:N:SEED with N from 1 to {MAX_DAY}, got {name!r}",
                param_hint="--traffic",
            )
        arrivals = day(count, int(match[2] or 0))
        if not arrivals:
            raise typer.BadParameter(f"{name} has no request by chance", param_hint="--traffic")
        return arrivals
    try:
        return read_trace(Path(name))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{name}: {error}", param_hint="--traffic") from error


def read_replicas(text: str) -> int | None:
    if text == "auto":
        return None
    counts = read_counts(text, "--replicas")
    if len(counts) != 1:
        raise typer.BadParameter(f"expected a number or auto, got {text!r}", param_hint="--replicas")
    return counts[0]


def read_scaling(text: str, delay_s: float, waiting_audio_s: float) -> Autoscaling:
    match = re.fullmatch(r"([0-9]{1,5}):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"expected MIN:MAX, from 1 on, got {text!r}", param_hint="--autoscale")
    return Autoscaling(int(match[2]), int(match[1]), delay_s, waiting_audio_s)


def read_loads(concurrency: str | None, rate: str | None) -> list[Load]:
    if concurrency is None and rate is None:
        concurrency = CHECK_LOADS
    loads = [] if concurrency is None else [Load(n) for n in read_counts(concurrency, "--concurrency")]
    for word in [] if rate is None else rate.split(","):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number <= 1e4:
            raise typer.BadParameter(
                f"expected numbers above 0 separated by commas, got {rate!r}", param_hint="--rate"
            )
        loads.append(Load(rate=number))
    return loads


def refuse(given: dict[str, object], why: str) -> None:
    for hint, value in given.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=hint)
