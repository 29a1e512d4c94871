"""One way to time calls for all benchmarks of kernels: ways take turns, inputs come from memory.

On a shared machine the speed drifts by more than the differences of interest, so all ways to compute a thing
are timed in turns, and their ratio is taken turn by turn. On a GPU calls are replayed as a CUDA graph, as the
engine runs them; calls that wait for the device cannot be recorded and are timed by the clock.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from antiphon.bench.matrix_rate import synchronize

__all__ = ["COLD_BYTES", "Call", "Timing", "time_in_turns"]

Call = Callable[[], object]

COLD_BYTES = 256 << 20
"""Inputs that rotate add up to this much, several times the caches of most machines."""
TURN_S = {"cpu": 5e-3, "cuda": 1e-3}
"""About how long a turn repeats its call."""
MAX_CALLS = 4096
SETTLE_S = 20e-3
"""How long the calls at the beginning of a turn do not count on a CPU. The threads that served the turn
before still wait for work, on cores that this one needs: those of GNU's OpenMP spin 300,000 times, 16 ms
where a pause takes 140 cycles. Sleeping meanwhile would be no better: a processor that has slept is slow for
a while."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, one entry a turn."""

    turns_s: Sequence[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.turns_s)

    @property
    def low_s(self) -> float:
        """A fifth of the turns were faster"""
        return self._quantile(0.2)

    @property
    def high_s(self) -> float:
        """A fifth of the turns were slower"""
        return self._quantile(0.8)

    def times_faster(self, other: Timing) -> float:
        """Median over the turns of how many times as long the other took."""
        return statistics.median(b / a for a, b in zip(self.turns_s, other.turns_s, strict=True))

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.turns_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def time_in_turns(
    ways: Mapping[str, Sequence[Call]], device: torch.device, *, repeats: int, recordable: bool = True
) -> dict[str, Timing]:
    """ways: by name, the same call bound to several inputs, which rotate from call to call

    recordable: the calls do not wait for the device, so that on a GPU they can be a CUDA graph
    """
    turns = {name: _turn(calls, device, recordable) for name, calls in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, turn in turns.items():
            taken[name].append(turn())
    return {name: Timing(seconds) for name, seconds in taken.items()}


def _turn(calls: Sequence[Call], device: torch.device, recordable: bool) -> Callable[[], float]:
    """A function that repeats the calls for about TURN_S and returns how long one took."""
    for call in calls:  # compiles what is compiled on first use, and touches all memory
        call()
    synchronize(device)
    start = time.perf_counter()
    calls[0]()
    synchronize(device)
    once = time.perf_counter() - start
    count = max(1, min(MAX_CALLS, math.ceil(TURN_S[device.type] / max(once, 1e-7))))
    if device.type == "cuda" and recordable:
        return _graph_turn(calls, max(count, len(calls)))
    rotating = itertools.cycle(calls)

    def turn() -> float:
        settled = time.perf_counter() + (SETTLE_S if device.type == "cpu" else 0)
        while time.perf_counter() < settled:
            next(rotating)()
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(count):
            next(rotating)()
        synchronize(device)
        return (time.perf_counter() - begin) / count

    return turn


def _graph_turn(calls: Sequence[Call], count: int) -> Callable[[], float]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(count):
            calls[index % len(calls)]()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def turn() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / count

    turn()
    return turn
