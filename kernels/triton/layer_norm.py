"""LayerNorm of a tile that holds whole rows, for kernels that go on with it."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["layer_normed"]


@triton.jit
def layer_normed(x, weight_ptr, bias_ptr, channels, eps, BLOCK_C: tl.constexpr):
    """x (tokens, BLOCK_C) in float32, zero from `channels` on, and so is the result"""
    channel = tl.arange(0, BLOCK_C)
    inside = channel < channels
    mean = tl.sum(x, 1) / channels
    off = tl.where(inside[None, :], x - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(off * off, 1) / channels + eps)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    return off * scale[:, None] * weight[None, :] + bias[None, :]
