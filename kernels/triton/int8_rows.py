"""Rows in 8 bits, as `quantize_rows` makes them, and the operands of a product with int8 weights.

Of each row, beside its whole numbers, a product reads some int32: the bits of its scale, the number of its
outliers, their inputs in rising order, and the bits of their values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.quantized import LARGEST, LEAST_LARGEST, OUTLIER, QuantizedWeight

__all__ = ["Operands", "operands", "outlier_sums", "quantized_rows", "row_scales"]

MAX_BLOCK = 16384
"""Numbers of a row that are in registers at a time"""
FACTOR = tl.constexpr(OUTLIER)
"""How many times the mean of its row's sizes an outlier is"""
ROUNDING = tl.constexpr(12582912.0)
"""1.5 * 2^23: added and subtracted, it leaves the nearest whole number, of equally near ones the even."""


@dataclass(frozen=True)
class Operands:
    """What `tile_logits` multiplies."""

    rows: Tensor
    """(rows, n): as they are, or int8"""
    weight: Tensor
    """(out, n): of the rows' dtype, or int8"""
    scales: Tensor | None
    """float32 (out), of an int8 weight"""
    about: Tensor | None
    """int32 (rows, 2 + 2 * most), of int8 rows"""


def operands(x: Tensor, weight: Tensor | QuantizedWeight) -> Operands:
    x = x if x.stride(1) == 1 else x.contiguous()
    if isinstance(weight, Tensor):
        return Operands(x, weight if weight.stride(1) == 1 else weight.contiguous(), None, None)
    values, scales = weight.values, weight.scales.contiguous()
    values = values if values.stride(1) == 1 else values.contiguous()
    if not weight.dynamic:
        return Operands(x, values, scales, None)
    rows, about = quantized_rows(x)
    return Operands(rows, values, scales, about)


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (rows, n), the numbers of a row adjacent -> `Operands.rows` and `Operands.about`"""
    rows, size = x.shape
    values = torch.empty(rows, size, dtype=torch.int8, device=x.device)
    about = torch.empty(rows, 2 + 2 * (size // OUTLIER + 1), dtype=torch.int32, device=x.device)
    block = min(triton.next_power_of_2(size), MAX_BLOCK)
    if rows:
        _quantize_rows_kernel[(rows,)](
            x,
            values,
            about,
            size,
            x.stride(0),
            LARGEST=float(LARGEST),
            LEAST_LARGEST=LEAST_LARGEST,
            BLOCK=block,
            IS_WHOLE=size <= block,
            num_warps=min(max(block // 1024, 1), 16),
            enable_fp_fusion=False,  # or a product would be rounded together with what is added to it
        )
    return values, about


@triton.jit
def _part(x_ptr, start, size, BLOCK: tl.constexpr):
    column = start + tl.arange(0, BLOCK)
    return tl.load(x_ptr + column, mask=column < size, other=0.0).to(tl.float32)


@triton.jit
def _limit(total, size):
    """Numbers whose size is above this are outliers."""
    return tl.div_rn(total, size * 1.0) * FACTOR


@triton.jit
def _counted(x, limit):
    """The sizes of the numbers that are no outliers, which are the others' 0; NaN is one of neither."""
    sizes = tl.abs(x)
    return tl.where(sizes > limit, 0.0, sizes)


@triton.jit
def _write_part(
    x, start, size, limit, factor, is_finite, count, value_ptr, input_ptr, outlier_ptr, BLOCK: tl.constexpr
):
    """The whole numbers of a part, and its outliers from place `count` on. Returns the next place."""
    column = start + tl.arange(0, BLOCK)
    x = tl.where(is_finite, x, 0.0)
    is_outlier = tl.abs(x) > limit
    whole = (tl.where(is_outlier, 0.0, x * factor) + ROUNDING) - ROUNDING
    tl.store(value_ptr + column, whole.to(tl.int32).to(tl.int8), mask=column < size)
    found = is_outlier.to(tl.int32)
    num_found = tl.sum(found, 0)
    if num_found > 0:
        place = count + tl.cumsum(found, 0) - 1
        is_kept = is_outlier & (place <= size // FACTOR)
        tl.store(input_ptr + place, column, mask=is_kept)
        tl.store(outlier_ptr + place, x.to(tl.int32, bitcast=True), mask=is_kept)
    return count + num_found


@triton.jit
def _quantize_rows_kernel(
    x_ptr,
    value_ptr,
    about_ptr,
    size,
    stride_x_row,
    LARGEST: tl.constexpr,
    LEAST_LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    """value = the nearest whole numbers to x * (127 / max|x|), the max over all but outliers, which are 0;
    about = the scale max|x| / 127, and the outliers: those above 12 times the mean of |x|

    IS_WHOLE: a row is no longer than BLOCK"""
    row = tl.program_id(0).to(tl.int64)
    most = size // FACTOR + 1
    x_ptr += row * stride_x_row
    value_ptr += row * size
    about_ptr += row * (2 + 2 * most)

    x = _part(x_ptr, 0, size, BLOCK)
    if IS_WHOLE:
        total = tl.sum(tl.abs(x), 0)
        limit = _limit(total, size)
        largest = tl.max(_counted(x, limit), 0)
    else:
        sums = tl.abs(x)
        for start in range(BLOCK, size, BLOCK):
            sums += tl.abs(_part(x_ptr, start, size, BLOCK))
        total = tl.sum(sums, 0)
        limit = _limit(total, size)
        peaks = _counted(x, limit)
        for start in range(BLOCK, size, BLOCK):
            peaks = tl.maximum(peaks, _counted(_part(x_ptr, start, size, BLOCK), limit))
        largest = tl.max(peaks, 0)
    is_finite = total < float("inf")  # false of NaN, too
    is_counted = is_finite & (largest >= LEAST_LARGEST)
    largest = tl.where(is_counted, largest, 1.0)
    factor = tl.where(is_counted, tl.div_rn(LARGEST, largest), 0.0)
    scale = tl.where(is_counted, tl.div_rn(largest, LARGEST), 0.0)
    scale = tl.where(is_finite, scale, float("nan"))

    input_ptr, outlier_ptr = about_ptr + 2, about_ptr + 2 + most
    count = _write_part(x, 0, size, limit, factor, is_finite, 0, value_ptr, input_ptr, outlier_ptr, BLOCK)
    if not IS_WHOLE:
        for start in range(BLOCK, size, BLOCK):
            x = _part(x_ptr, start, size, BLOCK)
            count = _write_part(
                x, start, size, limit, factor, is_finite, count, value_ptr, input_ptr, outlier_ptr, BLOCK
            )
    tl.store(about_ptr, scale.to(tl.int32, bitcast=True))
    tl.store(about_ptr + 1, tl.minimum(count, most))


@triton.jit
def row_scales(about_ptr, row, size):
    about_ptr += row * (4 + size // FACTOR * 2)
    return tl.load(about_ptr).to(tl.float32, bitcast=True)


@triton.jit
def outlier_sums(sums, about_ptr, weight_ptr, row, weight_row, size, stride_weight_row):
    """sums (rows, weight rows) plus the products of each row's outliers, one after the other: the order does
    not depend on the tiles, so neither does the result."""
    about_ptr += row * (4 + size // FACTOR * 2)
    count = tl.load(about_ptr + 1)
    for i in range(tl.max(count, 0)):
        is_there = i < count
        column = tl.load(about_ptr + 2 + i, mask=is_there, other=0)
        value = tl.load(about_ptr + 3 + size // FACTOR + i, mask=is_there, other=0)
        weight = tl.load(weight_ptr + weight_row[None, :] * stride_weight_row + column[:, None])
        sums += value.to(tl.float32, bitcast=True)[:, None] * weight.to(tl.float32)
    return sums
