"""`antiphon bench host`: what a step costs the processor while a GPU computes the rest.

The packaged model takes the path of a GPU, on the CPU and with recordings that do nothing when they are
replayed. What is left is planning, filling arrays, reading results and telling them; the last is done while a
device computes. Times are processor time of the thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table

import antiphon.engine.engine as engine_module
from antiphon.bench.engine import paced_speaking
from antiphon.bench.options import JsonFile, check_output, device_name, read_counts, record_of, write_record
from antiphon.bench.spans import replaced
from antiphon.device.cuda_graph import capture_for
from antiphon.engine.engine import Engine
from antiphon.sched.request import RequestState
from antiphon.types import Request, SamplingParams, Units

__all__ = ["HostRun", "bench_host", "run"]

Result = TypeVar("Result", bound="torch.Tensor | tuple[torch.Tensor, ...]")

KV_CACHE_BYTES = 3 << 30  # of which only what is written is taken
NUM_WARM_UPS = 8
MAX_POSITIONS = 4050
"""Of a prompt and its answer, beside a few tokens around them: the packaged model has 4,096 positions."""


class Nothing:
    """Recordings whose results stay those of the recorded call."""

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        result = function()
        return lambda: result

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class HostRun:
    """Medians over the steps of one number of requests."""

    num_requests: int
    positions: int
    """Of each request's prompt"""
    unit_ms: float
    """Of a step that gives each request a unit"""
    unit_meanwhile_ms: float
    """The part of it that is done while the device computes"""
    text_ms: float | None
    """Of a step that also picks text; None if there was none"""
    text_meanwhile_ms: float | None


def bench_host(num_requests: int, positions: int, *, units: int, rate: float) -> HostRun:
    """units: that each request picks. rate: text tokens that a unit asks for."""
    nothing = Nothing()
    with replaced(capture_for, lambda *_, **__: nothing, owner=engine_module):
        engine = Engine(
            device="cpu", max_num_seqs=num_requests, kv_cache_bytes=KV_CACHE_BYTES, progress=False
        )
    with engine:
        rng = random.Random(0)
        vocabulary = engine.model_config.audio_vocab_size
        prompt = Units([rng.randrange(vocabulary) for _ in range(positions)])
        engine.scheduler.speaking = paced_speaking(rate)
        params = SamplingParams(max_units=units, ignore_eos=True)
        states: list[RequestState] = []
        for _ in range(num_requests):
            request = Request(prompt, modalities=("text", "audio"), system="")
            engine.add_request(request, params, stream_audio=False)
            states.append(engine.scheduler.waiting[-1])
            while not states[0].unit_ids:  # the prompt is read once, and found in the cache by the others
                engine.step()
        return _measured(engine, states, positions, units)


def _measured(engine: Engine, states: list[RequestState], positions: int, units: int) -> HostRun:
    while engine.has_unfinished() and not all(len(state.unit_ids) > NUM_WARM_UPS for state in states):
        engine.step()
    meanwhile_s = 0.0
    tell = engine.runner.meanwhile

    def timed() -> None:
        nonlocal meanwhile_s
        start = time.thread_time()
        tell()
        meanwhile_s += time.thread_time() - start

    engine.runner.meanwhile = timed
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    while engine.has_unfinished() and min(len(state.unit_ids) for state in states) < units - 1:
        num_text, meanwhile_s = sum(len(state.text_ids) for state in states), 0.0
        start = time.thread_time()
        engine.step()
        taken = time.thread_time() - start
        found[sum(len(state.text_ids) for state in states) > num_text].append((taken, meanwhile_s))

    def median(kind: bool, which: int) -> float:
        return 1e3 * statistics.median(times[which] for times in found[kind])

    return HostRun(
        len(states),
        positions,
        median(False, 0),
        median(False, 1),
        median(True, 0) if found[True] else None,
        median(True, 1) if found[True] else None,
    )


def run(
    batch: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,16,64",
    positions: Annotated[str, typer.Option(help="Units of each prompt, separated by commas.")] = "250,3900",
    units: Annotated[int, typer.Option(min=32, help="Units that each request picks.")] = 100,
    rate: Annotated[float, typer.Option(min=0.0, help="Text tokens that a unit asks for.")] = 0.1,
    json_out: JsonFile = None,
) -> None:
    """Processor time of a step beside a GPU, with recordings that do nothing."""
    check_output(json_out, "--json")
    longest = max(read_counts(positions, "--positions"))
    if longest + units > MAX_POSITIONS:
        raise typer.BadParameter(
            f"expected, with --units {units}, at most {MAX_POSITIONS - units}, got {longest}",
            param_hint="--positions",
        )
    runs = [
        bench_host(count, length, units=units, rate=rate)
        for length in read_counts(positions, "--positions")
        for count in read_counts(batch, "--batch")
    ]
    title = f"a step on the host, {device_name(torch.device('cpu'))}, torch {torch.__version__}"
    Console().print(_table(title, runs))
    if json_out is not None:
        command = (
            f"antiphon bench host --batch {batch} --positions {positions} --units {units} --rate {rate:g}"
        )
        write_record(json_out, record_of(title, command, runs=[asdict(run) for run in runs]))


def _table(title: str, runs: list[HostRun]) -> Table:
    caption = (
        "processor time of the thread, median; waited for: before and after the device computes; "
        "meanwhile: while it does"
    )
    table = Table(title=title, caption=caption, padding=(0, 1))
    for name in ("requests", "positions", "unit step", "waited for", "with text", "waited for"):
        table.add_column(name, justify="right")

    def shown(total: float | None, meanwhile: Any = 0.0) -> str:
        return "-" if total is None else f"{total - meanwhile:.3f} ms"

    for run in runs:
        table.add_row(
            str(run.num_requests),
            str(run.positions),
            shown(run.unit_ms),
            shown(run.unit_ms, run.unit_meanwhile_ms),
            shown(run.text_ms),
            shown(run.text_ms, run.text_meanwhile_ms),
        )
    return table
