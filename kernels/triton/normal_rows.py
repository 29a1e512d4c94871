"""Counter-based normal numbers: four words of Philox, eight numbers, a count."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["normal_rows"]

BLOCK = 256
"""Counts a program takes."""


def normal_rows(seeds: Tensor, first_rows: Tensor, stream: int, num_rows: int, width: int) -> Tensor:
    out = torch.empty(len(seeds), num_rows, width, dtype=torch.float32, device=seeds.device)
    if not out.numel():
        return out
    counts_per_row = triton.cdiv(width, 8)
    grid = (triton.cdiv(num_rows * counts_per_row, BLOCK), len(seeds))
    _normal_rows_kernel[grid](
        seeds.contiguous(),
        first_rows.contiguous(),
        out,
        stream,
        num_rows,
        WIDTH=width,
        COUNTS_PER_ROW=counts_per_row,
        BLOCK=BLOCK,
    )
    return out


@triton.jit(do_not_specialize=["stream", "num_rows"])
def _normal_rows_kernel(
    seeds_ptr,
    first_rows_ptr,
    out_ptr,
    stream,
    num_rows,
    WIDTH: tl.constexpr,
    COUNTS_PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[n, row, 2 j : 2 j + 2] = sqrt(-2 ln u) (cos, sin)(2 pi v), u and v of word j of the row"""
    n = tl.program_id(1).to(tl.int64)
    count = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    seed = tl.load(seeds_ptr + n).to(tl.uint64, bitcast=True)
    # A generator counts before it gives.
    low = tl.load(first_rows_ptr + n) * COUNTS_PER_ROW + count + 1
    high = (low >> 63).to(tl.uint64, bitcast=True)  # of a counter of 256 bits
    key = tl.zeros_like(high) + seed
    key_high = tl.zeros_like(high) + stream.to(tl.uint64)
    w0, w1, w2, w3 = tl.random.philox_impl(low.to(tl.uint64, bitcast=True), high, high, high, key, key_high)
    row, place = count // COUNTS_PER_ROW, count % COUNTS_PER_ROW * 8
    out_ptr += (n * num_rows + row) * WIDTH
    inside = row < num_rows
    _store_pair(out_ptr, place, w0, inside, WIDTH)
    _store_pair(out_ptr, place + 2, w1, inside, WIDTH)
    _store_pair(out_ptr, place + 4, w2, inside, WIDTH)
    _store_pair(out_ptr, place + 6, w3, inside, WIDTH)


@triton.jit
def _store_pair(out_ptr, place, word, inside, WIDTH: tl.constexpr):
    # float64, as numpy does: few numbers are drawn, and near 1 a logarithm in float32 would be far off.
    u = ((word >> 32).to(tl.float64) + 0.5) * 2.3283064365386963e-10
    angle = (word & 0xFFFFFFFF).to(tl.float64) * 1.4629180792671596e-09
    radius = tl.sqrt(-2.0 * tl.log(u))
    tl.store(out_ptr + place, (radius * tl.cos(angle)).to(tl.float32), mask=inside & (place < WIDTH))
    tl.store(out_ptr + place + 1, (radius * tl.sin(angle)).to(tl.float32), mask=inside & (place + 1 < WIDTH))
