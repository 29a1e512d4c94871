"""Runs the benchmarks of `bench.kernels`: an op's backends, and other ways to compute the same, in turns."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

import torch

from antiphon.bench.bandwidth import memory_bandwidth
from antiphon.bench.kernels.case import Case, Cases, Setting
from antiphon.bench.matrix_rate import matrix_rate
from antiphon.bench.options import dtype_name
from antiphon.bench.timing import COLD_BYTES, Call, Timing, time_in_turns
from antiphon.kernels import registry

__all__ = ["KernelRun", "Peaks", "bench_op", "measure_peaks"]

MAX_COPIES = 16
"""The most copies of the inputs that rotate. The caches hold all copies of small inputs, as they hold
activations in serving."""

MAX_SHARE = 1.05
"""Of a floor; peaks are measured no better than this."""


@dataclass(frozen=True)
class Peaks:
    """What this device reaches when it does nothing else: the rooflines."""

    bytes_per_s: float
    ops_per_s: float

    def floor_s(self, case: Case) -> float:
        return max(case.num_bytes / self.bytes_per_s, case.num_ops / self.ops_per_s)


@dataclass(frozen=True)
class KernelRun:
    """One way to compute one shape of an op."""

    op: str
    shape: str
    dtype: str
    way: str
    """A backend, torch.compile, or another way that the op's benchmark names"""
    median_s: float
    low_s: float
    high_s: float
    """A fifth of the turns were faster than low, a fifth slower than high"""
    num_bytes: int
    num_ops: int
    bytes_per_s: float
    ops_per_s: float
    floor_s: float
    """The least time that the bytes and the operations take at the peaks"""
    bound: str
    """Which of the two takes longer: memory or matrix"""
    share_of_floor: float | None
    """floor_s / median_s; None if the run was faster than its floor, which is then none: `no_floor`"""
    no_floor: str
    """Why: "cached", since caches held what the count reads from memory; "busy", since that is impossible,
    so that something else computed while the peaks were measured; otherwise empty"""
    times_torch: float
    """How many times faster than the backend torch, median over the turns"""


def measure_peaks(setting: Setting) -> Peaks:
    return Peaks(memory_bandwidth(setting.device), matrix_rate(setting.dtype, setting.device))


@torch.inference_mode()
def bench_op(
    op: str, setting: Setting, peaks: Peaks, *, repeats: int, num_shapes: int | None, compiled: bool
) -> Iterator[KernelRun]:
    """The op's shapes, the first `num_shapes` or all of them, each by every way that takes the dtype here."""
    cases: Cases = importlib.import_module(f"antiphon.bench.kernels.{op}").cases
    for case in islice(cases(setting), num_shapes):
        if compiled:
            torch.compiler.reset()  # it keeps few shapes of a function
        ways = {name: _calls(case, name, call) for name, call in _ways(op, case, setting, compiled)}
        timings = time_in_turns(ways, setting.device, repeats=repeats, recordable=not case.waits)
        for name, timing in timings.items():
            yield _run(op, case, setting, peaks, name, timing, timings["torch"])


def _ways(
    op: str, case: Case, setting: Setting, compiled: bool
) -> Iterator[tuple[str, Callable[..., object]]]:
    for backend in registry.backends(op):
        interpreted = backend == "triton" and setting.device.type == "cpu"
        takes = backend not in case.refused_by and registry.takes(op, backend, setting.device, setting.dtype)
        if takes and not interpreted:
            yield backend, lambda *inputs, backend=backend: case.call(*inputs, backend=backend)
    if compiled and case.reference is not None:
        yield "torch.compile", torch.compile(case.reference, dynamic=False)
    yield from case.others.items()


def _calls(case: Case, way: str, call: Callable[..., object]) -> Sequence[Call]:
    copies = _num_copies(case)

    def bound(inputs: tuple[Any, ...]) -> Call:
        return lambda: call(*inputs)

    backend = way if way in get_args(registry.Backend) else "torch"
    return [bound(case.inputs(backend)) for _ in range(copies)]


def _run(
    op: str, case: Case, setting: Setting, peaks: Peaks, way: str, timing: Timing, in_torch: Timing
) -> KernelRun:
    seconds, floor_s = timing.median_s, peaks.floor_s(case)
    bound = "memory" if floor_s == case.num_bytes / peaks.bytes_per_s else "matrix"
    share, no_floor = _share_of_floor(floor_s / seconds, bound, case)
    return KernelRun(
        op=op,
        shape=case.shape,
        dtype=dtype_name(setting.dtype),
        way=way,
        median_s=seconds,
        low_s=timing.low_s,
        high_s=timing.high_s,
        num_bytes=case.num_bytes,
        num_ops=case.num_ops,
        bytes_per_s=case.num_bytes / seconds,
        ops_per_s=case.num_ops / seconds,
        floor_s=floor_s,
        bound=bound,
        share_of_floor=share,
        no_floor=no_floor,
        times_torch=timing.times_faster(in_torch),
    )


def _share_of_floor(share: float, bound: str, case: Case) -> tuple[float | None, str]:
    """`share_of_floor` and `no_floor`. What is above 1 by no more than a measurement is off by is 1."""
    if share <= MAX_SHARE:
        return min(share, 1.0), ""
    is_cached = bound == "memory" and _num_copies(case) * case.num_bytes < COLD_BYTES
    return None, "cached" if is_cached else "busy"


def _num_copies(case: Case) -> int:
    return max(1, min(MAX_COPIES, -(-COLD_BYTES // case.num_bytes)))
