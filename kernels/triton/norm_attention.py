"""LayerNorm, queries, keys, values and attention in one launch, for the short sequences of a network of many
layers: there, launches take longer than products that are computed more than once.

A program has a tile of a head's queries. It computes the keys and values of its row from x, tile by tile, and
attends to them as flash attention does (arXiv 2205.14135). Lengths are read on the device: there is no mask.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.products import add_product

__all__ = ["fits", "norm_attention"]

MAX_FRAMES = 256
"""Each tile of 64 queries computes all keys and values, so beyond this other ways are faster."""
MAX_CHANNELS = 512
"""For the statistics of its norm a row is held in registers."""


def fits(x: Tensor) -> bool:
    return x.shape[1] <= MAX_FRAMES and x.shape[2] <= MAX_CHANNELS


def norm_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    num_heads: int,
    lengths: Tensor | None,
) -> Tensor:
    rows, frames, channels = x.shape
    inner = weight.shape[0] // 3
    head_dim = inner // num_heads
    out = x.new_empty(rows, frames, inner, dtype=weight.dtype)
    if not out.numel():
        return out
    most = 32 if weight.dtype == torch.float32 else 64
    block = min(most, max(16, triton.next_power_of_2(frames)))
    _norm_attention_kernel[(triton.cdiv(frames, block), num_heads, rows)](
        x,
        norm_weight.contiguous(),
        norm_bias.contiguous(),
        weight.contiguous(),
        None if lengths is None else lengths.contiguous(),
        out,
        frames,
        channels,
        inner,
        *x.stride(),
        eps,
        math.log2(math.e) / math.sqrt(head_dim),
        HEAD_DIM=head_dim,
        BLOCK_C=max(16, triton.next_power_of_2(channels)),
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_K=32 if weight.dtype == torch.float32 else 64,
        BLOCK_T=block,
        num_warps=8 if block > 16 else 4,
        num_stages=2,
    )
    return out


@triton.jit
def _statistics(x_ptr, frame, length, channels, stride_x_frame, stride_x_channel, eps, BLOCK_C: tl.constexpr):
    """Mean and 1 / deviation of each frame"""
    channel = tl.arange(0, BLOCK_C)
    inside = (channel < channels)[None, :]
    place = x_ptr + frame.to(tl.int64)[:, None] * stride_x_frame + channel[None, :] * stride_x_channel
    x = tl.load(place, mask=(frame < length)[:, None] & inside, other=0.0)
    mean = tl.sum(x, 1) / channels
    off = tl.where(inside, x - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt(tl.sum(off * off, 1) / channels + eps)


@triton.jit
def _normed(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    frame,
    length,
    channel,
    channels,
    stride_x_frame,
    stride_x_channel,
    mean,
    scale,
):
    """Some channels of the norm, in float32; finite on padding"""
    inside = channel < channels
    place = x_ptr + frame.to(tl.int64)[:, None] * stride_x_frame + channel[None, :] * stride_x_channel
    x = tl.load(place, mask=(frame < length)[:, None] & inside[None, :], other=0.0)
    weight = tl.load(norm_weight_ptr + channel, mask=inside, other=0.0)
    bias = tl.load(norm_bias_ptr + channel, mask=inside, other=0.0)
    return (x - mean[:, None]) * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _weights(weight_ptr, channel, channels, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """(channels, BLOCK_D): a head's rows of the weight, transposed"""
    dim = tl.arange(0, BLOCK_D)
    place = weight_ptr + dim[None, :] * channels + channel[:, None]
    return tl.load(place, mask=(channel < channels)[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)


@triton.jit(do_not_specialize=["frames"])
def _norm_attention_kernel(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    weight_ptr,
    lengths_ptr,
    out_ptr,
    frames,
    channels,
    inner,
    stride_x_row,
    stride_x_frame,
    stride_x_channel,
    eps,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """h = LayerNorm(x); out = softmax(q k^T / sqrt(HEAD_DIM)) v of a head over the row's valid frames, with
    q, k, v = h @ weight^T; zero on padding. scale: log2(e) / sqrt(HEAD_DIM)"""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    dim = tl.arange(0, BLOCK_D)
    length = frames
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + row), frames)
    keys = tl.where(tl.program_id(0) * BLOCK_T < length, length, 0)  # none for a tile that is all padding
    x_ptr += row * stride_x_row
    weight_ptr += head * HEAD_DIM * channels
    dtype = weight_ptr.dtype.element_ty

    mean, deviation = _statistics(
        x_ptr, query, length, channels, stride_x_frame, stride_x_channel, eps, BLOCK_C
    )
    q = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
    for first in range(0, channels, BLOCK_K):
        channel = first + tl.arange(0, BLOCK_K)
        h = _normed(
            x_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            query,
            length,
            channel,
            channels,
            stride_x_frame,
            stride_x_channel,
            mean,
            deviation,
        ).to(dtype)
        q = add_product(h, _weights(weight_ptr, channel, channels, HEAD_DIM, BLOCK_D), q)
    q = q.to(dtype)
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    largest = tl.full((BLOCK_T,), float("-inf"), dtype=tl.float32)
    mixed = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
    for start in range(0, keys, BLOCK_T):
        key = start + tl.arange(0, BLOCK_T)
        mean, deviation = _statistics(
            x_ptr, key, length, channels, stride_x_frame, stride_x_channel, eps, BLOCK_C
        )
        k = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
        v = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
        for first in range(0, channels, BLOCK_K):
            channel = first + tl.arange(0, BLOCK_K)
            h = _normed(
                x_ptr,
                norm_weight_ptr,
                norm_bias_ptr,
                key,
                length,
                channel,
                channels,
                stride_x_frame,
                stride_x_channel,
                mean,
                deviation,
            ).to(dtype)
            w_ptr = weight_ptr + inner * channels
            k = add_product(h, _weights(w_ptr, channel, channels, HEAD_DIM, BLOCK_D), k)
            w_ptr += inner * channels
            v = add_product(h, _weights(w_ptr, channel, channels, HEAD_DIM, BLOCK_D), v)
        score = add_product(q, tl.trans(k.to(dtype)), tl.zeros((BLOCK_T, BLOCK_T), dtype=tl.float32)) * scale
        score = tl.where((key < length)[None, :], score, float("-inf"))
        peak = tl.maximum(largest, tl.max(score, 1))
        fade = tl.exp2(largest - peak)
        share = tl.exp2(score - peak[:, None])
        total = total * fade + tl.sum(share, 1)
        mixed = add_product(share.to(dtype), v.to(dtype), mixed * fade[:, None])
        largest = peak
    mixed /= tl.where(total > 0.0, total, 1.0)[:, None]
    mixed = tl.where((query < length)[:, None], mixed, 0.0)
    place = out_ptr + (row * frames + query[:, None]) * inner + head * HEAD_DIM + dim[None, :]
    tl.store(place, mixed.to(dtype), mask=(query < frames)[:, None] & (dim < HEAD_DIM)[None, :])
