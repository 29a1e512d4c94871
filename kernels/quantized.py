"""Weights in eight bits: whole numbers from -127 to 127, and one scale for each output channel.

Symmetric, so a product is the whole numbers' own, times the scale once per finished sum. The rows that are
multiplied may be quantized likewise as they come, each with a scale of its own: then sums are exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check

__all__ = [
    "QuantizedWeight",
    "check_quantized",
    "quantize_int8",
    "quantize_rows",
    "quantized_bytes",
    "quantized_linear_reference",
]

LARGEST = 127
LEAST_LARGEST = 1e-30
"""A row whose numbers are all smaller counts as zero, so that 127 / max|row| is finite."""
OUTLIER = 12
ELEMENTS_AT_A_TIME = 1 << 22
"""Of a weight that is quantized: it is a vocabulary's, perhaps, and would be held in float32 twice."""
MAX_IN_FEATURES = 65536
"""So that the sum of as many products fits 32 bits, that of unsigned weights included."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A matrix whose row i is values[i] * scales[i]."""

    values: Tensor
    """int8 (out, in)"""
    scales: Tensor
    """float32 (out)"""
    dynamic: bool = False
    """Whether each row that it multiplies is quantized first, see `quantize_rows`."""

    def dequantized(self) -> Tensor:
        """float32 (out, in)"""
        return self.values.float() * self.scales[:, None]

    def rows(self, ids: Tensor) -> QuantizedWeight:
        """A matrix of these rows: ids int64 (n)"""
        return QuantizedWeight(
            self.values.index_select(0, ids), self.scales.index_select(0, ids), self.dynamic
        )

    def embed(self, ids: Tensor) -> Tensor:
        """The rows of a table: ids int64 (n) -> float32 (n, in)"""
        return self.values.index_select(0, ids).float().mul_(self.scales.index_select(0, ids)[:, None])


def quantize_int8(weight: Tensor, *, dynamic: bool = False) -> QuantizedWeight:
    """weight (out, in), finite -> the nearest whole numbers, of equally near ones the even, with the scales
    max|row| / 127.

    dynamic: see `QuantizedWeight`.

    Raises ValueError naming the argument that does not fit.
    """
    check("weight", weight, FLOATS, ("out", "in"), note=", neither of them 0")
    if 0 in weight.shape:
        raise ValueError(f"weight: expected (out, in), neither of them 0, got {tuple(weight.shape)}")
    weight = weight.detach()
    largest = torch.maximum(weight.amax(1), -weight.amin(1)).float()
    if not largest.isfinite().all():
        raise ValueError("weight: expected finite numbers, got NaN or infinity")
    scales = largest / LARGEST
    values = torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format)
    step = max(1, ELEMENTS_AT_A_TIME // weight.shape[1])
    for some, rows, scale in zip(values.split(step), weight.split(step), scales.split(step), strict=True):
        # A row whose scale is 0 in float32 is 0 in all.
        divisors = torch.where(scale > 0, scale, 1.0)[:, None]
        some.copy_((rows.float() / divisors).round_().clamp_(-LARGEST, LARGEST))
    return QuantizedWeight(values, scales, dynamic)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (rows, n) -> int8 (rows, n), float32 (rows), float32 (rows, n): whole numbers, their scales, and the
    outliers, which stay as they are (Dettmers et al. 2022, arXiv 2208.07339).

    An outlier is more than 12 times the mean of its row's |x|, and has the whole number 0; elsewhere the
    third result is 0. The others are the nearest whole numbers to x * (127 / max|x|), of equally near ones
    the even, and the scale is max|x| / 127, both of the row's other numbers. A row with NaN or infinity is 0,
    with the scale NaN.
    """
    x = x.float()
    sizes = x.abs()
    totals = sizes.sum(1)
    is_finite = totals.isfinite()[:, None]
    is_outlier = is_finite & (sizes > totals[:, None] / x.shape[1] * OUTLIER)
    largest = sizes.masked_fill(is_outlier | ~is_finite, 0.0).amax(1, keepdim=True)
    counts = largest >= LEAST_LARGEST
    # A number divided by a tensor would be rounded twice: it is multiplied by the reciprocal.
    factors = torch.where(counts, torch.full_like(largest, LARGEST) / largest, 0.0)
    values = torch.where(is_outlier | ~is_finite, 0.0, x * factors).round_().to(torch.int8)
    scales = torch.where(is_finite, torch.where(counts, largest / LARGEST, 0.0), torch.nan)
    return values, scales[:, 0], torch.where(is_outlier, x, 0.0)


def quantized_linear_reference(x: Tensor, weight: QuantizedWeight, residual: Tensor | None = None) -> Tensor:
    """x (rows, in) in any floating dtype, which holds the whole numbers exactly; so is the result."""
    if weight.dynamic:
        values, scales, outliers = quantize_rows(x)
        sums = (values.double() @ weight.values.double().T).float() * scales[:, None]
        y = ((sums + outliers @ weight.values.float().T) * weight.scales).to(x.dtype)
    else:
        y = (x @ weight.values.to(x.dtype).T * weight.scales).to(x.dtype)
    return y if residual is None else residual + y


def quantized_bytes(weight: QuantizedWeight) -> int:
    return weight.values.numel() + weight.scales.numel() * weight.scales.element_size()


def check_quantized(name: str, weight: QuantizedWeight) -> None:
    values = weight.values
    check(f"{name}.values", values, torch.int8, ("out", "in"), note=", neither of them 0")
    if 0 in values.shape:
        raise ValueError(f"{name}.values: expected (out, in), neither of them 0, got {tuple(values.shape)}")
    if type(weight.dynamic) is not bool:
        raise ValueError(f"{name}.dynamic: expected a bool, got {type(weight.dynamic).__name__}")
    if weight.dynamic and values.shape[1] > MAX_IN_FEATURES:
        raise ValueError(
            f"{name}.values: expected at most {MAX_IN_FEATURES} inputs, since it is dynamic, "
            f"got {values.shape[1]}"
        )
    like = (f"{name}.values", values)
    check(f"{name}.scales", weight.scales, torch.float32, (len(values),), like)
