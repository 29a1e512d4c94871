"""How fast this machine reads memory: the denominator of every bandwidth floor."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from antiphon.kernels.linear import linear

__all__ = ["read_bandwidth"]

SIZE_BYTES = 256 << 20  # far beyond any cache
REPEATS = 9


def read_bandwidth() -> float:
    """Bytes per second, median of repeats: the better of a sum and a one-row product over 256 MiB."""
    rows = torch.ones(1, 4096)
    matrix = torch.ones(SIZE_BYTES // 4 // 4096, 4096)
    product = linear(matrix)
    return max(_bytes_per_s(matrix.sum), _bytes_per_s(lambda: product(rows)))


def _bytes_per_s(read: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        read()
        times.append(time.perf_counter() - start)
    return SIZE_BYTES / sorted(times)[REPEATS // 2]
