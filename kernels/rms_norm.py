"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), its inside in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["rms_norm", "rms_norm_reference"]


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: str | None = None) -> Tensor:
    """x (rows, hidden), weight (hidden) -> (rows, hidden)"""
    if x.dim() != 2 or weight.shape != x.shape[1:]:
        raise ValueError(
            f"x, weight: expected (rows, n) and (n), got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if weight.dtype != x.dtype:
        raise ValueError(f"weight: expected {x.dtype} like x, got {weight.dtype}")
    out: Tensor = resolve("rms_norm", backend, x.device, x.dtype)(x, weight, eps)
    return out


@register("rms_norm", "cpp", is_available=cpp_available, supports=cpp_float32)
def _rms_norm_cpp(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from antiphon import _C

    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    _C.rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.shape[0], x.shape[1], eps)
    return out


@register("rms_norm", "torch")
def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = at_least_float32(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)  # rounded before the product, as the released code does
