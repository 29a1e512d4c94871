"""How fast this machine multiplies matrices: the denominator of every arithmetic floor."""

from __future__ import annotations

import time

import torch

from antiphon.codec.layers.packed import PackedLinear
from antiphon.device.place import exact_float32

__all__ = ["matrix_rate", "synchronize"]

SIZES = {"cpu": 2048, "cuda": 8192}
REPEATS = 7


@torch.inference_mode()
def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a square product, median of repeats, by the library that the codec uses."""
    size = SIZES[device.type]
    rows = torch.ones(1, size, size, dtype=dtype, device=device)
    with exact_float32(device):
        product = PackedLinear(torch.ones(size, size, device=device), None, dtype)
        product(rows)
        times = []
        for _ in range(REPEATS):
            synchronize(device)
            start = time.perf_counter()
            product(rows)
            synchronize(device)
            times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times)[REPEATS // 2]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what this thread has given it. Not for all of the device: that would fail
    while another thread, as that of the vocoder, records a graph."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
