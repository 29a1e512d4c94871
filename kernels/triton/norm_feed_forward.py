"""What follows attention in a transformer layer, in one launch: a program has a tile of tokens and takes it
through all products, so that nothing between them goes through memory.

With few tokens, what takes time is a program's reading of all weights, from the L2 cache. So several programs
share the hidden numbers of a tile of tokens, and the last one to finish adds up their parts, always in the
same order.
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
MAX_SPLITS = 4
"""Programs that share a tile of tokens; each computes the output layer again."""
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
    counters: Tensor | None,
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
    block_k, tiles, hidden = 32 if is_wide else 64, triton.cdiv(tokens, block_t), up_weight.shape[0]
    splits = 1
    if counters is not None and tiles <= counters.numel():
        while splits < MAX_SPLITS and 2 * splits * tiles <= FEW_PROGRAMS and 2 * splits * block_k <= hidden:
            splits *= 2
    parts = x.new_empty(splits, *x.shape) if splits > 1 else None
    _norm_feed_forward_kernel[(tiles, splits)](
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
        parts,
        counters if splits > 1 else None,
        tokens,
        channels,
        eps,
        INNER=attended.shape[2],
        HIDDEN=hidden,
        SPLITS=splits,
        BLOCK_T=block_t,
        BLOCK_C=max(16, triton.next_power_of_2(channels)),
        BLOCK_K=block_k,
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
    parts_ptr,
    counters_ptr,
    tokens,
    channels,
    eps,
    INNER: tl.constexpr,
    HIDDEN: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y = x + attended @ out_weight^T + out_bias; h = LayerNorm(y);
    out = y + gelu(h @ up_weight^T + up_bias) @ down_weight^T + down_bias

    counters: 0 for each tile of tokens, before and afterwards"""
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
    share: tl.constexpr = (HIDDEN + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K
    split = tl.program_id(1)
    if SPLITS > 1:
        y = tl.where(split == 0, y, 0.0)
    for start in range(0, share, BLOCK_K):
        k = split * share + start + tl.arange(0, BLOCK_K)
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
    is_there = there[:, None] & inside[None, :]
    if SPLITS == 1:
        tl.store(out_ptr + place, y, mask=is_there)
    else:
        part = tokens.to(tl.int64) * channels
        tl.store(parts_ptr + split * part + place, y, mask=is_there)
        tl.debug_barrier()  # all of the part is written before the counter says so
        num_done = tl.atomic_add(counters_ptr + tl.program_id(0), 1, sem="acq_rel")
        if num_done == SPLITS - 1:
            y = tl.zeros((BLOCK_T, BLOCK_C), dtype=tl.float32)
            for i in range(SPLITS):
                # From L2: other multiprocessors have just written it.
                y += tl.load(parts_ptr + i * part + place, mask=is_there, other=0.0, cache_modifier=".cg")
            tl.store(out_ptr + place, y, mask=is_there)
            tl.store(counters_ptr + tl.program_id(0), 0)
