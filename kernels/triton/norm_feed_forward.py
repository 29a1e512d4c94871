"""What follows attention in a transformer layer, in one launch: a program has a tile of tokens and takes it
through all products, so that nothing between them goes through memory.

With few tokens each program reads all weights alone, from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.layer_norm import layer_normed
from antiphon.kernels.triton.products import add_product

__all__ = ["fits", "norm_feed_forward"]

FEW_PROGRAMS = 128
MAX_CHANNELS = 256
"""A tile of tokens with all their channels is in registers twice."""


def fits(x: Tensor) -> bool:
    return x.shape[2] <= MAX_CHANNELS


def norm_feed_forward(
    x: Tensor,
    attended: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
) -> Tensor:
    rows, frames, channels = x.shape
    x, attended = x.contiguous(), attended.contiguous()
    out = torch.empty_like(x)
    if not x.numel():
        return out
    tokens = rows * frames
    block_t = 16
    while block_t < 64 and triton.cdiv(tokens, block_t) > FEW_PROGRAMS:
        block_t *= 2
    is_wide = up_weight.dtype == torch.float32
    if is_wide:
        block_t = min(block_t, 32)
    _norm_feed_forward_kernel[(triton.cdiv(tokens, block_t),)](
        x,
        attended,
        out_weight.contiguous(),
        out_bias.contiguous(),
        norm_weight.contiguous(),
        norm_bias.contiguous(),
        up_weight.contiguous(),
        up_bias.contiguous(),
        down_weight.contiguous(),
        down_bias.contiguous(),
        out,
        tokens,
        channels,
        eps,
        INNER=attended.shape[2],
        HIDDEN=up_weight.shape[0],
        BLOCK_T=block_t,
        BLOCK_C=max(16, triton.next_power_of_2(channels)),
        BLOCK_K=32 if is_wide else 64,
        num_warps=8,
        num_stages=3 if block_t == 16 and not is_wide else 2,
    )
    return out


@triton.jit(do_not_specialize=["tokens"])
def _norm_feed_forward_kernel(
    x_ptr,
    attended_ptr,
    out_weight_ptr,
    out_bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    up_weight_ptr,
    up_bias_ptr,
    down_weight_ptr,
    down_bias_ptr,
    out_ptr,
    tokens,
    channels,
    eps,
    INNER: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y = x + attended @ out_weight^T + out_bias; h = LayerNorm(y);
    out = y + gelu(h @ up_weight^T + up_bias) @ down_weight^T + down_bias"""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < channels
    there = token < tokens
    token = token.to(tl.int64)
    dtype = up_weight_ptr.dtype.element_ty

    place = token[:, None] * channels + channel[None, :]
    y = tl.load(x_ptr + place, mask=there[:, None] & inside[None, :], other=0.0)
    y += tl.load(out_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    for start in range(0, INNER, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(
            attended_ptr + token[:, None] * INNER + k[None, :],
            mask=there[:, None] & (k < INNER)[None, :],
            other=0.0,
        )
        w = tl.load(
            out_weight_ptr + channel[None, :] * INNER + k[:, None],
            mask=(k < INNER)[:, None] & inside[None, :],
            other=0.0,
        )
        y = add_product(a, w, y)
    h = layer_normed(y, norm_weight_ptr, norm_bias_ptr, channels, eps, BLOCK_C).to(dtype)
    y += tl.load(down_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    for start in range(0, HIDDEN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        w = tl.load(
            up_weight_ptr + k[None, :] * channels + channel[:, None],
            mask=inside[:, None] & (k < HIDDEN)[None, :],
            other=0.0,
        )
        g = tl.zeros((BLOCK_T, BLOCK_K), dtype=tl.float32)
        g += tl.load(up_bias_ptr + k, mask=k < HIDDEN, other=0.0)[None, :]
        g = add_product(h, w, g)
        g = 0.5 * g * (1.0 + tl.erf(g * 0.7071067811865476))
        w = tl.load(
            down_weight_ptr + channel[None, :] * HIDDEN + k[:, None],
            mask=(k < HIDDEN)[:, None] & inside[None, :],
            other=0.0,
        )
        y = add_product(g.to(dtype), w, y)
    tl.store(out_ptr + place, y, mask=there[:, None] & inside[None, :])
