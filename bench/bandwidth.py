"""How fast this machine reads memory: the denominator of every bandwidth floor."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from antiphon.bench.matrix_rate import synchronize
from antiphon.bench.timing import time_in_turns
from antiphon.kernels.linear import linear

__all__ = ["memory_bandwidth", "read_bandwidth"]

SIZE_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # far beyond any cache
REPEATS = 9


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second to measure kernels against."""
    return read_bandwidth() if device.type == "cpu" else device_bandwidth(device)


def read_bandwidth() -> float:
    """Bytes per second, median of repeats: the better of a sum and a one-row product over 256 MiB."""
    cpu, size = torch.device("cpu"), SIZE_BYTES["cpu"]
    rows = torch.ones(1, 4096)
    matrix = torch.ones(size // 4 // 4096, 4096)
    product = linear(matrix)
    return max(_bytes_per_s(read, size, cpu) for read in (matrix.sum, lambda: product(rows)))


def device_bandwidth(device: torch.device) -> float:
    """Bytes per second of a GPU, reads and writes together: the best of a copy, an addition, a sum and a
    one-row product over 1 GiB. A copy alone is too little: on an H200 it takes 2.7 TB/s where kernels that
    read weights take 4.3."""
    rows = torch.ones(1, 8192, device=device)
    source = torch.ones(SIZE_BYTES["cuda"] // 4 // 8192, 8192, device=device)
    target = torch.empty_like(source)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: target.copy_(source), 2),
        "addition": (lambda: torch.add(source, 1.0, out=target), 2),
        "sum": (source.sum, 1),
        "product": (lambda: torch.nn.functional.linear(rows, source), 1),
    }
    timings = time_in_turns({name: [way] for name, (way, _) in ways.items()}, device, repeats=REPEATS)
    return max(times * source.nbytes / timings[name].median_s for name, (_, times) in ways.items())


def _bytes_per_s(move: Callable[[], object], num_bytes: int, device: torch.device) -> float:
    times = []
    for _ in range(1 + REPEATS):  # the first one warms up
        synchronize(device)
        start = time.perf_counter()
        move()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return num_bytes / sorted(times[1:])[REPEATS // 2]
