"""Steps of the engine at the released size, with random weights."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from antiphon.bench.checkpoint import write_checkpoint
from antiphon.bench.device.figures import Figure, Machine
from antiphon.bench.dummy_codec import dummy_codec, read_params
from antiphon.bench.engine import add_paced_request
from antiphon.bench.matrix_rate import synchronize
from antiphon.bench.speech import bench_speech
from antiphon.codec import Codec
from antiphon.engine.engine import Engine
from antiphon.model.schemes import INT8, INT8_WEIGHT_ONLY
from antiphon.sched.request import RequestState

__all__ = ["int8_steps", "speech", "steps"]

TEXT_RATE = 0.18
"""Text tokens that a unit asks for, as in speech."""
NUM_PROFILED = 20


def load(
    machine: Machine, max_num_seqs: int, codec: Codec | None = None, quantization: str | None = None
) -> Engine:
    """Without a codec only in a full run."""
    if machine.is_small:
        return Engine(
            device=machine.device, max_num_seqs=max_num_seqs, quantization=quantization, progress=False
        )
    with tempfile.TemporaryDirectory() as folder:
        return Engine(
            write_checkpoint("8b", Path(folder)),
            codec=codec,
            load_format="dummy",
            device=machine.device,
            quantization=quantization,
            enable_prefix_caching=False,
            max_num_seqs=max_num_seqs,
            progress=False,
        )


def begin(engine: Engine, count: int, prompt_units: int, units: int) -> tuple[list[RequestState], float]:
    """Requests that all have their first unit, and the seconds that it took."""
    start, rng = time.perf_counter(), random.Random(0)
    for _ in range(count):
        add_paced_request(engine, prompt_units, units, TEXT_RATE, rng)
    states = list(engine.scheduler.waiting)
    while not all(state.unit_ids for state in states):
        engine.step()
    synchronize(engine.device)
    return states, time.perf_counter() - start


def steps(machine: Machine) -> Iterator[Figure]:
    """A unit's step for one request and for many, and what the device does in it."""
    start = time.perf_counter()
    most = 2 if machine.is_small else 64
    with load(machine, most) as engine:
        synchronize(machine.device)
        yield Figure("load and record", time.perf_counter() - start, "s")
        if machine.device.type == "cuda":
            reserved = torch.cuda.memory_reserved(machine.device)
            yield Figure("memory reserved", reserved / 1e9, "GB")
        parts = engine.model.num_bytes_read()
        floor_ms = machine.floor_us(parts["bottom"] + parts["top"]) / 1e3
        for count in machine.some((1, 16, 64)):
            yield from _steps_of(machine, engine, count, floor_ms)


def int8_steps(machine: Machine) -> Iterator[Figure]:
    """The same with int8 weights, to be read beside `steps`."""
    for scheme in (INT8_WEIGHT_ONLY.name, INT8.name):
        with load(machine, 2 if machine.is_small else 64, quantization=scheme) as engine:
            if machine.device.type == "cuda":
                reserved = torch.cuda.memory_reserved(machine.device)
                yield Figure(f"{scheme}, memory reserved", reserved / 1e9, "GB")
            parts = engine.model.num_bytes_read()
            for name, num_bytes in parts.items():
                yield Figure(f"{scheme}, weights read by {name}", num_bytes / 1e9, "GB")
            floor_ms = machine.floor_us(parts["bottom"] + parts["top"]) / 1e3
            for count in machine.some((1, 64)):
                yield from _steps_of(machine, engine, count, floor_ms, f"{scheme}, ")


class Run(NamedTuple):
    first_ms: float
    plain_ms: list[float]
    """Of each step that wrote no text"""
    with_text_ms: list[float]
    units_per_s: float


def _run(engine: Engine, count: int, prompt_units: int, units: int) -> Run:
    states, first_s = begin(engine, count, prompt_units, units)
    plain_ms: list[float] = []
    with_text_ms: list[float] = []
    start = time.perf_counter()
    while engine.has_unfinished():
        before, began = sum(len(state.text_ids) for state in states), time.perf_counter()
        engine.step()
        took_ms = 1e3 * (time.perf_counter() - began)
        wrote = sum(len(state.text_ids) for state in states) > before
        (with_text_ms if wrote else plain_ms).append(took_ms)
    total_s = time.perf_counter() - start
    rate = sum(len(state.unit_ids) for state in states) / total_s
    return Run(1e3 * first_s, plain_ms, with_text_ms, rate)


def _steps_of(
    machine: Machine, engine: Engine, count: int, floor_ms: float, of: str = ""
) -> Iterator[Figure]:
    prompt_units, units = (10, 12) if machine.is_small else (100, 96)
    name = f"{of}{count} request{'s' * (count > 1)}"
    cold = _run(engine, count, prompt_units, units)
    yield Figure(f"{name}, first unit, cold", cold.first_ms, "ms")
    run = cold
    if not machine.is_small:
        run = _run(engine, count, prompt_units, units)
        yield Figure(f"{name}, first unit, warm", run.first_ms, "ms")
    yield Figure(f"{name}, unit step", statistics.median(run.plain_ms or run.with_text_ms), "ms", floor_ms)
    if run.with_text_ms:
        yield Figure(f"{name}, step with text", statistics.median(run.with_text_ms), "ms")
    yield Figure(f"{name}, longest step", max(run.plain_ms + run.with_text_ms), "ms")
    yield Figure(f"{name}, units", run.units_per_s, "a second")
    if machine.device.type == "cuda":
        yield from _profiled(engine, name, begin(engine, count, prompt_units, units)[0])


def _profiled(engine: Engine, name: str, states: list[RequestState]) -> Iterator[Figure]:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(NUM_PROFILED):
            engine.step()
        synchronize(engine.device)
    found = [(each.key, each.count, each.self_device_time_total) for each in profiler.key_averages()]
    found.sort(key=lambda kernel: -kernel[2])
    note = ", ".join(
        f"{key[:40]} {count / NUM_PROFILED:.1f} x {us / max(1, count):.1f} us" for key, count, us in found[:8]
    )
    busy_ms = sum(us for *_, us in found) / NUM_PROFILED / 1e3
    yield Figure(f"{name}, device busy a step, text included", busy_ms, "ms", note=note)
    launched = sum(count for _, count, _ in found) / NUM_PROFILED
    yield Figure(f"{name}, kernels a step, text included", launched, "")
    for state in states:
        engine.abort(state.request_id)
    while engine.has_unfinished():
        engine.step()


def speech(machine: Machine) -> Iterator[Figure]:
    """Questions and answers from end to end, with a codec of the released size in float16."""
    counts, units = ([1, 64], 75) if not machine.is_small else ([1], 20)
    codec = None
    if not machine.is_small:
        codec = dummy_codec(read_params("codec_300m"), torch.float16, machine.device)
    with load(machine, max(counts), codec) as engine:
        for run in bench_speech(engine, counts, prompt_units=100, units=units, rate=TEXT_RATE, repeats=1):
            name = f"{run.num_requests} at a time"
            yield Figure(f"{name}, prompts read", 1e3 * run.recognition_s, "ms")
            yield Figure(f"{name}, first audio", 1e3 * run.first_audio_s, "ms")
            dry = f"{run.num_underruns} ran dry"
            yield Figure(f"{name}, last first audio", 1e3 * run.last_first_audio_s, "ms")
            yield Figure(f"{name}, speech", run.audio_s_per_s, "s a second", note=dry)
