"""The first half of a pre-norm transformer layer: LayerNorm (arXiv 1607.06450), queries, keys and values as
one product, and softmax attention over the valid frames of each row, scale 1 / sqrt(head_dim)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check, check_integer, check_number, check_range
from antiphon.kernels.masked_conv import valid_frames
from antiphon.kernels.registry import on_triton_floats, register, resolve, triton_available

__all__ = ["norm_attention", "norm_attention_reference"]


def norm_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    num_heads: int,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """x (rows, frames, channels), norm_weight and norm_bias (channels), weight (3 * num_heads * head_dim,
    channels) -> (rows, frames, num_heads * head_dim), each head a contiguous slice

    The weight has the rows of all heads' queries, then of their keys, then of their values; products are in
    its dtype, and so is the result. x and the norm are float32, or float64 if weight is.
    lengths: (rows,) int32, valid frames of each row; None: all are valid. The result is zero on the others.

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    eps = check_number("eps", eps, least=0)
    num_heads = check_integer("num_heads", num_heads, 1)
    check("weight", weight, FLOATS, ("3 * heads * head_dim", "channels"))
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    channels = weight.shape[1]
    if weight.shape[0] % (3 * num_heads) or not weight.numel():
        raise ValueError(
            f"weight: expected (3 * {num_heads} * head_dim, channels), got {tuple(weight.shape)}"
        )
    check("x", x, wide, ("rows", "frames", channels), ("weight", weight), note=" on {device}")
    check("norm_weight", norm_weight, wide, (channels,), ("x", x), note=" on {device}")
    check("norm_bias", norm_bias, wide, (channels,), ("x", x), note=" on {device}")
    if lengths is not None:
        check("lengths", lengths, torch.int32, x.shape[:1], ("x", x), note=" on {device}")
        check_range("lengths", lengths, 0, x.shape[1])
    attend = resolve("norm_attention", backend, x.device, weight.dtype, x, norm_weight, norm_bias, weight)
    out: Tensor = attend(x, norm_weight, norm_bias, eps, weight, num_heads, lengths)
    return out


@register("norm_attention", "triton", is_available=triton_available, supports=on_triton_floats)
def _norm_attention_triton(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    num_heads: int,
    lengths: Tensor | None,
) -> Tensor:
    from antiphon.kernels.triton import norm_attention as kernel

    if not kernel.fits(x):
        return norm_attention_reference(x, norm_weight, norm_bias, eps, weight, num_heads, lengths)
    return kernel.norm_attention(x, norm_weight, norm_bias, eps, weight, num_heads, lengths)


@register("norm_attention", "torch")
def norm_attention_reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    num_heads: int,
    lengths: Tensor | None = None,
) -> Tensor:
    rows, frames, channels = x.shape
    keys = None
    if lengths is not None:
        valid = valid_frames(lengths, frames)
        x = x.masked_fill(~valid, 0)
        # A row without valid frames attends to all, since none would have no mean; the result is zero anyway.
        keys = (valid | (lengths == 0)[:, None, None]).mT[:, None]
    normed = F.layer_norm(x, (channels,), norm_weight, norm_bias, eps).to(weight.dtype)
    qkv = F.linear(normed, weight)
    q, k, v = qkv.view(rows, frames, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).reshape(rows, frames, -1)
    return mixed if lengths is None else mixed.masked_fill(~valid, 0)
