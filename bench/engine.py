"""`antiphon bench engine`: units per second, alone and together, against the bandwidth floor.

Random weights do not speak: their CTC labels would ask for text at an arbitrary rate. So the rate at
which speech consumes text is forced, and nothing else is: prompts are read, text is decoded and runs
ahead, units are generated and read back exactly as for a trained model.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from antiphon.bench.bandwidth import memory_bandwidth
from antiphon.bench.checkpoint import write_checkpoint
from antiphon.bench.formats import FORMATS, read_formats
from antiphon.bench.options import (
    Config,
    Device,
    Dtype,
    EnforceEager,
    JsonFile,
    Repeats,
    Threads,
    check_output,
    device_name,
    dtype_name,
    read_config,
    read_counts,
    read_device,
    read_dtype,
    record_of,
    use_threads,
    write_record,
)
from antiphon.engine.engine import Engine
from antiphon.sched.speaking import SpeakingState
from antiphon.types import Request, SamplingParams, Units

__all__ = ["EngineRun", "add_paced_request", "bench_engine", "run"]


@dataclass(frozen=True)
class EngineRun:
    """Medians over the repeats of one number of requests at a time, with weights in one format."""

    weights: str
    num_requests: int
    units_per_s: float
    """All requests together, over the whole time from first to last step."""
    decode_units_per_s: float
    """The same without the steps before the first unit."""
    text_tokens_per_s: float
    text_tokens_per_unit: float
    bandwidth_bytes_per_s: float
    """Measured before each repeat, since it drifts on shared machines."""
    floor_units_per_s: float
    """If nothing but the weights of each step were read, at that bandwidth."""
    share_of_floor: float
    """decode_units_per_s / floor_units_per_s, repeat by repeat."""
    times_first: float
    """decode_units_per_s / that of the first format, repeat by repeat."""


class _Measured(NamedTuple):
    total_s: float
    decode_s: float
    """From when all requests have their first unit."""
    text_tokens: int
    bandwidth: float = 0.0
    """Bytes per second, measured just before."""


def paced_speaking(rate: float) -> type[SpeakingState]:
    """Speech that says any text, never ends, and asks for a fusion entry whenever `rate` times the number of
    units read so far reaches the next whole number."""

    class PacedSpeaking(SpeakingState):
        def __init__(
            self, *, blank: int, eot: int, lag: int, carries_speech: Callable[[int], bool], text_input: bool
        ) -> None:
            super().__init__(
                blank=blank, eot=-1, lag=lag, carries_speech=lambda token: True, text_input=False
            )

        def entries_wanted(self, label: int) -> int:
            num_units = len(self.unit_labels)
            return len(self.fusion_ids) + int(rate * num_units) - int(rate * (num_units - 1))

    return PacedSpeaking


def bench_engine(
    config: str,
    batch_sizes: list[int],
    *,
    prompt_units: int,
    units: int,
    rate: float,
    repeats: int,
    device: torch.device,
    formats: Mapping[str, Mapping[str, Any]],
    enforce_eager: bool = False,
    seed: int = 0,
) -> list[EngineRun]:
    """One run for each batch size and format. formats: settings of an engine, by name; they take turns."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(config, Path(folder))
        engines = {
            name: Engine(
                checkpoint,
                load_format="dummy",
                device=device,
                enforce_eager=enforce_eager,
                enable_prefix_caching=False,
                max_num_seqs=max(batch_sizes),
                **settings,
            )
            for name, settings in formats.items()
        }
    rng = random.Random(seed)
    runs = []
    for size in batch_sizes:
        for engine in engines.values():
            _run(engine, size, prompt_units, units, rate, rng)  # warms up
        measured: dict[str, list[_Measured]] = {name: [] for name in engines}
        for _ in range(repeats):
            for name, engine in engines.items():
                bandwidth = memory_bandwidth(device)
                one = _run(engine, size, prompt_units, units, rate, rng)
                measured[name].append(one._replace(bandwidth=bandwidth))
        first = next(iter(measured.values()))
        runs += [_summary(name, engines[name], size, units, found, first) for name, found in measured.items()]
    return runs


def _summary(
    name: str, engine: Engine, size: int, units: int, measured: list[_Measured], first: list[_Measured]
) -> EngineRun:
    parts = engine.model.num_bytes_read()
    per_unit = measured[0].text_tokens / (units * size)
    bytes_per_unit = parts["bottom"] + parts["top"] + per_unit * (parts["text"] + parts["fusion"])
    rates = [(units - 1) * size / m.decode_s for m in measured]
    floors = [size * m.bandwidth / bytes_per_unit for m in measured]
    total_s = statistics.median(m.total_s for m in measured)
    return EngineRun(
        weights=name,
        num_requests=size,
        units_per_s=units * size / total_s,
        decode_units_per_s=statistics.median(rates),
        text_tokens_per_s=measured[0].text_tokens / total_s,
        text_tokens_per_unit=per_unit,
        bandwidth_bytes_per_s=statistics.median(m.bandwidth for m in measured),
        floor_units_per_s=statistics.median(floors),
        share_of_floor=statistics.median(r / f for r, f in zip(rates, floors, strict=True)),
        times_first=statistics.median(
            one.decode_s / other.decode_s for one, other in zip(first, measured, strict=True)
        ),
    )


def _run(
    engine: Engine, size: int, prompt_units: int, units: int, rate: float, rng: random.Random
) -> _Measured:
    for _ in range(size):
        add_paced_request(engine, prompt_units, units, rate, rng)
    states = list(engine.scheduler.waiting)
    start = time.perf_counter()
    first_units = None
    while engine.has_unfinished():
        engine.step()
        if first_units is None and all(state.unit_ids for state in states):
            first_units = time.perf_counter()
    end = time.perf_counter()
    assert first_units is not None
    text_tokens = sum(len(state.text_ids) for state in states)
    return _Measured(end - start, end - first_units, text_tokens)


def add_paced_request(
    engine: Engine,
    prompt_units: int,
    units: int,
    rate: float,
    rng: random.Random,
    modalities: Sequence[str] = ("text", "audio"),
) -> None:
    """A spoken prompt of random units, answered by `units` units that ask for `rate` text tokens each."""
    config = engine.model_config
    prompt = Units([rng.randrange(config.audio_vocab_size) for _ in range(prompt_units)])
    params = SamplingParams(max_units=units, ignore_eos=True)
    scheduler = engine.scheduler
    before, scheduler.speaking = scheduler.speaking, paced_speaking(rate)
    try:
        engine.add_request(Request(prompt, modalities=tuple(modalities), system=""), params)
    finally:
        scheduler.speaking = before


def run(
    config: Config = "auto",
    batch: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,4,16",
    prompt_units: Annotated[int, typer.Option(min=1, help="Units of the spoken prompt.")] = 100,
    units: Annotated[int, typer.Option(min=1, help="Units generated per request.")] = 128,
    rate: Annotated[float, typer.Option(min=0.0, help="Text tokens that a unit asks for.")] = 0.6,
    repeats: Repeats = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantization: Annotated[
        str | None, typer.Option(metavar="SCHEME", help="int8 or int8-weight-only.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of --dtype and --quantization: some of {', '.join(FORMATS)}, separated by commas, "
            "which take turns."
        ),
    ] = None,
    eager: EnforceEager = False,
    threads: Threads = 0,
    json_out: JsonFile = None,
) -> None:
    """Units per second with random weights, alone and together, and their share of the bandwidth floor."""
    check_output(json_out, "--json")
    use_threads(threads)
    place = read_device(device)
    kind, config = read_dtype(dtype, place), read_config(config, place)
    stored = dtype_name(kind) + (f", {quantization}" if quantization else "")
    option = f"--dtype {dtype_name(kind)}{f' --quantization {quantization}' if quantization else ''}"
    settings: dict[str, dict[str, Any]] = {stored: {"dtype": kind, "quantization": quantization}}
    if formats is not None:
        settings, option = read_formats(formats), f"--formats {formats}"
    runs = bench_engine(
        config,
        read_counts(batch, "--batch"),
        prompt_units=prompt_units,
        units=units,
        rate=rate,
        repeats=repeats,
        device=place,
        formats=settings,
        enforce_eager=eager,
    )
    title = f"{config}, {device_name(place)}, torch {torch.__version__}"
    Console().print(_table(title, runs))
    if json_out is not None:
        command = (
            f"antiphon bench engine --config {config} --batch {batch} --prompt-units {prompt_units} "
            f"--units {units} --rate {rate} --repeats {repeats} --device {place.type} "
            f"{option}{' --enforce-eager' if eager else ''}"
        )
        write_record(json_out, record_of(title, command, runs=[asdict(run) for run in runs]))


def _table(title: str, runs: list[EngineRun]) -> Table:
    table = Table(
        title=title,
        caption="decode: after the first unit; floor: each weight read once at the bandwidth beside it; "
        "ratio: to the first weights",
    )
    table.add_column("weights")
    for name in ("batch", "units/s", "decode", "GB/s", "floor", "share", "ratio"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            run.weights,
            str(run.num_requests),
            f"{run.units_per_s:.0f}",
            f"{run.decode_units_per_s:.0f}",
            f"{run.bandwidth_bytes_per_s / 1e9:.1f}",
            f"{run.floor_units_per_s:.0f}",
            f"{run.share_of_floor:.0%}",
            f"{run.times_first:.2f}",
        )
    return table
