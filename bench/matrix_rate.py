"""How fast this machine multiplies matrices: the denominator of every arithmetic floor."""

from __future__ import annotations

import time

import torch

from antiphon.codec.packed import PackedLinear

__all__ = ["matrix_rate"]

SIZE = 2048
REPEATS = 7


@torch.inference_mode()
def matrix_rate(dtype: torch.dtype) -> float:
    """Operations per second of a square product, median of repeats, by the library that the codec uses."""
    rows = torch.ones(1, SIZE, SIZE, dtype=dtype)
    product = PackedLinear(torch.ones(SIZE, SIZE), None, dtype)
    product(rows)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product(rows)
        times.append(time.perf_counter() - start)
    return 2 * SIZE**3 / sorted(times)[REPEATS // 2]
