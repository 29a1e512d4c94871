"""How fast this machine reads memory: the denominator of every bandwidth floor."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from antiphon.bench.matrix_rate import synchronize
from antiphon.kernels.linear import linear

__all__ = ["memory_bandwidth", "read_bandwidth"]

SIZE_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # far beyond any cache
REPEATS = 9


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second to measure kernels against: reads on a CPU, copies on a GPU."""
    return read_bandwidth() if device.type == "cpu" else copy_bandwidth(device)


def read_bandwidth() -> float:
    """Bytes per second, median of repeats: the better of a sum and a one-row product over 256 MiB."""
    cpu, size = torch.device("cpu"), SIZE_BYTES["cpu"]
    rows = torch.ones(1, 4096)
    matrix = torch.ones(size // 4 // 4096, 4096)
    product = linear(matrix)
    return max(_bytes_per_s(read, size, cpu) for read in (matrix.sum, lambda: product(rows)))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, reads and writes together: the median of repeats over 1 GiB."""
    source = torch.ones(SIZE_BYTES["cuda"] // 4, device=device)
    target = torch.empty_like(source)
    return _bytes_per_s(lambda: target.copy_(source), 2 * SIZE_BYTES["cuda"], device)


def _bytes_per_s(move: Callable[[], object], num_bytes: int, device: torch.device) -> float:
    times = []
    for _ in range(1 + REPEATS):  # the first one warms up
        synchronize(device)
        start = time.perf_counter()
        move()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return num_bytes / sorted(times[1:])[REPEATS // 2]
