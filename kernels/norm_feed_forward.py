"""The second half of a pre-norm transformer layer: attention's output layer, LayerNorm (arXiv 1607.06450) and
a feed-forward with the exact GELU (arXiv 1606.08415), each added to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check, check_number
from antiphon.kernels.registry import on_triton_floats, register, resolve, triton_available

__all__ = ["FeedForward", "norm_feed_forward", "norm_feed_forward_reference"]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """Weights of the half layer. Matrices have the dtype that products are taken in; the rest is float32, or
    float64 if they are."""

    out_weight: Tensor
    """(channels, inner)"""
    out_bias: Tensor
    """(channels,)"""
    norm_weight: Tensor
    """(channels,)"""
    norm_bias: Tensor
    """(channels,)"""
    up_weight: Tensor
    """(hidden, channels)"""
    up_bias: Tensor
    """(hidden,)"""
    down_weight: Tensor
    """(channels, hidden)"""
    down_bias: Tensor
    """(channels,)"""
    eps: float
    counters: Tensor | None = None
    """(n,) int32 zeros, which calls leave zero. With them, up to n tiles of tokens are each shared by several
    programs on a GPU, which is faster if there are few. Calls that run at the same time need their own."""


def norm_feed_forward(
    x: Tensor, attended: Tensor, layer: FeedForward, *, backend: str | None = None
) -> Tensor:
    """x (rows, frames, channels), attended (rows, frames, inner) -> y + feed_forward(norm(y)), like x,
    where y = x + attended @ out_weight^T + out_bias

    x is float32, or float64 if the weights are; attended is in their dtype.

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    if not isinstance(layer, FeedForward):
        raise ValueError(f"layer: expected a FeedForward, got {type(layer).__name__}")
    eps = check_number("eps", layer.eps, least=0)
    check("up_weight", layer.up_weight, FLOATS, ("hidden", "channels"))
    dtype = layer.up_weight.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    hidden, channels = layer.up_weight.shape
    if not channels:
        raise ValueError(f"up_weight: expected one channel or more, got {tuple(layer.up_weight.shape)}")
    like = "up_weight", layer.up_weight
    check("x", x, wide, ("rows", "frames", channels), like, note=" on {device}")
    check("attended", attended, dtype, (*x.shape[:2], "inner"), like, note=" on {device}")
    matrices = {"out_weight": (channels, attended.shape[2]), "down_weight": (channels, hidden)}
    for name, shape in matrices.items():
        check(name, getattr(layer, name), dtype, shape, like, note=" on {device}")
    vectors = {"out_bias": channels, "norm_weight": channels, "norm_bias": channels}
    vectors |= {"up_bias": hidden, "down_bias": channels}
    for name, size in vectors.items():
        check(name, getattr(layer, name), wide, (size,), like, note=" on {device}")
    if layer.counters is not None:
        check("counters", layer.counters, torch.int32, ("n",), like, contiguous=True, note=" on {device}")
    run = resolve(
        "norm_feed_forward",
        backend,
        x.device,
        dtype,
        x,
        attended,
        *(getattr(layer, name) for name in ("up_weight", *matrices, *vectors)),
    )
    out: Tensor = run(x, attended, layer, eps)
    return out


@register("norm_feed_forward", "triton", is_available=triton_available, supports=on_triton_floats)
def _norm_feed_forward_triton(x: Tensor, attended: Tensor, layer: FeedForward, eps: float) -> Tensor:
    from antiphon.kernels.triton import norm_feed_forward as kernel

    if not kernel.fits(x):
        return norm_feed_forward_reference(x, attended, layer, eps)
    return kernel.norm_feed_forward(
        x,
        attended,
        layer.out_weight,
        layer.out_bias,
        layer.norm_weight,
        layer.norm_bias,
        eps,
        layer.up_weight,
        layer.up_bias,
        layer.down_weight,
        layer.down_bias,
        layer.counters,
    )


@register("norm_feed_forward", "torch")
def norm_feed_forward_reference(
    x: Tensor, attended: Tensor, layer: FeedForward, eps: float | None = None
) -> Tensor:
    dtype, wide = layer.up_weight.dtype, x.dtype
    y = x + F.linear(attended, layer.out_weight, layer.out_bias.to(dtype)).to(wide)
    normed = F.layer_norm(
        y, y.shape[2:], layer.norm_weight, layer.norm_bias, layer.eps if eps is None else eps
    )
    hidden = F.gelu(F.linear(normed.to(dtype), layer.up_weight, layer.up_bias.to(dtype)))
    return y + F.linear(hidden, layer.down_weight, layer.down_bias.to(dtype)).to(wide)
