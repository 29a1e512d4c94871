"""`antiphon bench speech`: spoken questions and answers from end to end, how soon and how many at a time."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from antiphon.bench.checkpoint import write_checkpoint
from antiphon.bench.dummy_codec import dummy_codec, read_params
from antiphon.bench.engine import add_paced_request
from antiphon.bench.matrix_rate import synchronize
from antiphon.bench.options import (
    CodecDtype,
    Config,
    Device,
    Dtype,
    EnforceEager,
    JsonFile,
    Repeats,
    check_output,
    device_name,
    dtype_name,
    read_codec_dtype,
    read_config,
    read_counts,
    read_device,
    read_dtype,
    record_of,
    write_record,
)
from antiphon.bench.spans import replaced
from antiphon.engine.engine import Engine
from antiphon.sched.plan import Spoken, StackPlan
from antiphon.types import AudioDelta, Finished, RequestMetrics

__all__ = ["SpeechRun", "bench_speech", "run"]


@dataclass(frozen=True)
class SpeechRun:
    """One number of requests at a time, all of which begin together."""

    num_requests: int
    recognition_s: float
    """Of all prompts: bottom layers, CTC labels and soft embeddings"""
    first_audio_s: float
    """Median over the requests"""
    last_first_audio_s: float
    """Of the request that waited longest"""
    audio_s_per_s: float
    """Speech of all requests, over the time from the first step to the last"""
    units_per_s: float
    num_underruns: int
    """Requests whose playback would have run dry"""


def bench_speech(
    engine: Engine, batch_sizes: list[int], *, prompt_units: int, units: int, rate: float, repeats: int
) -> list[SpeechRun]:
    """Medians, with random prompts and random weights. The weights are made to speak: they ask for text at
    the given rate, and whatever they pick counts as a unit."""
    rng = random.Random(0)
    run_top, first_id = engine.runner.run_top, engine.model_config.first_unit_id

    def run_top_for_units(plan: StackPlan) -> Spoken:
        picked, labels = run_top(plan)
        return Spoken([first_id + unit % engine.model_config.audio_vocab_size for unit in picked], labels)

    def serve(size: int) -> SpeechRun:
        for _ in range(size):
            add_paced_request(engine, prompt_units, units, rate, rng)
        return _serve(engine, size, units)

    runs = []
    for size in batch_sizes:
        with replaced(run_top, run_top_for_units):
            serve(size)  # warms up
            found = [serve(size) for _ in range(repeats)]
        medians = {
            name: statistics.median_low([getattr(run, name) for run in found]) for name in asdict(found[0])
        }
        runs.append(SpeechRun(**medians))
    return runs


def _serve(engine: Engine, size: int, units: int) -> SpeechRun:
    metrics: list[RequestMetrics] = []
    first: dict[str, float] = {}
    with _timed_reading(engine) as reading_s:
        start = time.perf_counter()
        while engine.has_unfinished():
            for event in engine.step():
                if isinstance(event, AudioDelta):
                    first.setdefault(event.request_id, time.perf_counter() - start)
                elif isinstance(event, Finished):
                    if event.completion.error is not None:
                        raise RuntimeError(f"a request failed: {event.completion.error}")
                    metrics.append(event.completion.metrics)
        total_s = time.perf_counter() - start
    return SpeechRun(
        num_requests=size,
        recognition_s=sum(reading_s),
        first_audio_s=statistics.median(first.values()),
        last_first_audio_s=max(first.values()),
        audio_s_per_s=sum(m.audio_s or 0.0 for m in metrics) / total_s,
        units_per_s=size * units / total_s,
        num_underruns=sum((m.underrun_s or 0.0) > 0 for m in metrics),
    )


@contextmanager
def _timed_reading(engine: Engine) -> Iterator[list[float]]:
    """Seconds of each pass of the bottom layers that reads a prompt."""
    run_bottom = engine.runner.run_bottom
    seconds: list[float] = []

    def timed(plan: StackPlan) -> object:
        if all(len(chunk) == 1 for chunk in plan.chunks):
            return run_bottom(plan)
        synchronize(engine.device)
        start = time.perf_counter()
        result = run_bottom(plan)
        synchronize(engine.device)
        seconds.append(time.perf_counter() - start)
        return result

    with replaced(run_bottom, timed):
        yield seconds


def run(
    config: Config = "auto",
    batch: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,8,32,64",
    prompt_units: Annotated[int, typer.Option(min=1, help="Units of a question: 175 are 7 seconds.")] = 175,
    units: Annotated[int, typer.Option(min=1, help="Units of an answer; 25 are a second.")] = 125,
    rate: Annotated[float, typer.Option(min=0.0, help="Text tokens that a unit asks for.")] = 0.18,
    dtype: Dtype = "auto",
    codec_dtype: CodecDtype = "auto",
    device: Device = "auto",
    eager: EnforceEager = False,
    repeats: Repeats = 3,
    json_out: JsonFile = None,
) -> None:
    """Time to the first sound, and speech per second, with random weights and a codec of released size."""
    check_output(json_out, "--json")
    place = read_device(device)
    sizes = read_counts(batch, "--batch")
    config = read_config(config, place)
    model_dtype = read_dtype(dtype, place, "--dtype")
    voice_dtype = read_codec_dtype(codec_dtype, place, "--codec-dtype")
    codec = dummy_codec(read_params("codec_300m"), voice_dtype, place, enforce_eager=eager)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            write_checkpoint(config, Path(folder)),
            codec=codec,
            load_format="dummy",
            device=place,
            dtype=model_dtype,
            enforce_eager=eager,
            enable_prefix_caching=False,
            max_num_seqs=max(sizes),
        )
    with engine:
        runs = bench_speech(engine, sizes, prompt_units=prompt_units, units=units, rate=rate, repeats=repeats)
    names = [dtype_name(kind) for kind in (model_dtype, voice_dtype)]
    title = f"{config} in {names[0]}, codec in {names[1]}, {device_name(place)}, torch {torch.__version__}"
    Console().print(_table(title, runs, prompt_units, units))
    if json_out is not None:
        command = (
            f"antiphon bench speech --config {config} --batch {batch} --prompt-units {prompt_units} "
            f"--units {units} --rate {rate} --dtype {names[0]} --codec-dtype {names[1]} "
            f"--device {place.type} --repeats {repeats}{' --enforce-eager' if eager else ''}"
        )
        write_record(json_out, record_of(title, command, runs=[asdict(run) for run in runs]))


def _table(title: str, runs: list[SpeechRun], prompt_units: int, units: int) -> Table:
    caption = (
        f"questions of {prompt_units / 25:g} s, answers of {units / 25:g} s. read: bottom layers over all "
        "questions; first, last: time to the first sound, median and longest; dry: requests whose playback "
        "would have run dry"
    )
    table = Table(title=title, caption=caption, padding=(0, 1))
    for name in ("requests", "read", "first", "last", "audio s/s", "units/s", "dry"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            str(run.num_requests),
            f"{1000 * run.recognition_s:.1f} ms",
            f"{1000 * run.first_audio_s:.0f} ms",
            f"{1000 * run.last_first_audio_s:.0f} ms",
            f"{run.audio_s_per_s:.2f}",
            f"{run.units_per_s:.0f}",
            str(run.num_underruns),
        )
    return table
