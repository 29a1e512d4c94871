"""mish(GroupNorm(x)) over the valid frames of a ragged batch (Wu and He 2018; Misra 2019), zero elsewhere,
and what a network adds to it.

A padded row comes out as it would alone: its statistics are those of its own frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check, check_integer, check_number
from antiphon.kernels.registry import on_triton_floats, register, resolve, triton_available

__all__ = ["group_norm_reference", "masked_group_norm", "masked_group_norm_reference"]


def masked_group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    mask: Tensor | None = None,
    *,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """x (batch, channels, frames), weight and bias (channels) ->
    (mish(norm(x) * weight + bias) + shift) * mask + residual

    The mean and the biased variance are those of a row's group of channels over its valid frames.
    mask: (batch, 1, frames) in x's dtype, 1 on valid frames and 0 on padding; None: all are valid. A row
        without valid frames has no mean, so its result is unspecified.
    shift: (channels,), residual: like x, both in x's dtype; None: nothing is added.
    out_dtype: what the result is rounded to; None is x's dtype

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    num_groups = check_integer("num_groups", num_groups, 1)
    eps = check_number("eps", eps, least=0)
    groups = f", channels in {num_groups} groups"
    check("x", x, FLOATS, ("batch", "channels", "frames"), note=groups)
    batch, channels, frames = x.shape
    if channels % num_groups:
        raise ValueError(f"x: expected (batch, channels, frames){groups}, got {tuple(x.shape)}")
    check("weight", weight, x.dtype, (channels,), ("x", x), note=" on {device}")
    check("bias", bias, x.dtype, (channels,), ("x", x), note=" on {device}")
    if mask is not None:
        check("mask", mask, x.dtype, (batch, 1, frames), ("x", x), note=" on {device}")
    if shift is not None:
        check("shift", shift, x.dtype, (channels,), ("x", x), note=" on {device}")
    if residual is not None:
        check("residual", residual, x.dtype, x.shape, ("x", x), note=" like x")
    if out_dtype is not None and out_dtype not in FLOATS:
        raise ValueError(f"out_dtype: expected a floating-point dtype, got {out_dtype!r:.40}")
    out_dtype = out_dtype or x.dtype
    if not x.numel():
        return torch.empty_like(x, dtype=out_dtype)
    norm = resolve("masked_group_norm", backend, x.device, x.dtype, x, weight, bias, mask, shift, residual)
    out: Tensor = norm(x, weight, bias, num_groups, eps, mask, shift, residual, out_dtype)
    return out


@register("masked_group_norm", "triton", is_available=triton_available, supports=on_triton_floats)
def _masked_group_norm_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    mask: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    from antiphon.kernels.triton.masked_group_norm import masked_group_norm as launch

    return launch(x, weight, bias, num_groups, eps, mask, shift, residual, out_dtype)


@register("masked_group_norm", "torch")
def masked_group_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    mask: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    out = F.mish(group_norm_reference(x, weight, bias, num_groups, eps, mask))
    if shift is not None:
        out = out + shift[:, None]
    if mask is not None:
        out = out * mask
    if residual is not None:
        out = out + residual
    return out.to(out_dtype or x.dtype)


def group_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, mask: Tensor | None = None
) -> Tensor:
    """The norm alone; its values on padding mean nothing."""
    if mask is None:
        return F.group_norm(x, num_groups, weight, bias, eps)
    batch, channels, frames = x.shape
    grouped = x.reshape(batch, num_groups, channels // num_groups, frames)
    valid = mask[:, None]
    count = valid.sum(dim=(2, 3), keepdim=True) * (channels // num_groups)
    mean = (grouped * valid).sum(dim=(2, 3), keepdim=True) / count
    centred = grouped - mean
    variance = (centred * valid).square().sum(dim=(2, 3), keepdim=True) / count
    normed = (centred * torch.rsqrt(variance + eps)).reshape(batch, channels, frames)
    return torch.addcmul(bias[:, None], normed, weight[:, None])
