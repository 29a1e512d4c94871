"""Weights in eight bits: whole numbers from -127 to 127, and one scale for each output channel.

Symmetric, so a product is the whole numbers' own, times the scale once per finished sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check

__all__ = ["QuantizedWeight", "check_quantized", "quantize_int8", "quantized_linear_reference"]

LARGEST = 127


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A matrix whose row i is values[i] * scales[i]."""

    values: Tensor
    """int8 (out, in)"""
    scales: Tensor
    """float32 (out)"""

    def dequantized(self) -> Tensor:
        """float32 (out, in)"""
        return self.values.float() * self.scales[:, None]


def quantize_int8(weight: Tensor) -> QuantizedWeight:
    """weight (out, in), finite -> the nearest whole numbers, of equally near ones the even, with the scales
    max|row| / 127.

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
    # A row whose scale is 0 in float32 is 0 in all.
    divisors = torch.where(scales > 0, scales, 1.0)[:, None]
    values = (weight.float() / divisors).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
    return QuantizedWeight(values, scales)


def quantized_linear_reference(x: Tensor, weight: QuantizedWeight, residual: Tensor | None = None) -> Tensor:
    """x (rows, in) in any floating dtype, which holds the whole numbers exactly; so is the result."""
    y = (x @ weight.values.to(x.dtype).T * weight.scales).to(x.dtype)
    return y if residual is None else residual + y


def check_quantized(name: str, weight: QuantizedWeight) -> None:
    values = weight.values
    check(f"{name}.values", values, torch.int8, ("out", "in"), note=", neither of them 0")
    if 0 in values.shape:
        raise ValueError(f"{name}.values: expected (out, in), neither of them 0, got {tuple(values.shape)}")
    like = (f"{name}.values", values)
    check(f"{name}.scales", weight.scales, torch.float32, (len(values),), like)
