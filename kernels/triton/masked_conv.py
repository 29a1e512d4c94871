"""A convolution over frames as a matrix product: its taps are stretches of the dimension that is summed over.

No row is padded in memory and none is unfolded: a program reads each tap's frames where they lie.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.products import add_product

__all__ = ["masked_conv"]

FEW_PROGRAMS = 128
"""With fewer than this, tiles are halved, so that more of a GPU's multiprocessors have one."""


def masked_conv(
    x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, stride: int, mask_output: bool
) -> Tensor:
    rows, frames, in_channels = x.shape
    taps, out_channels, _ = weight.shape
    out_frames = -(-frames // stride)
    out = x.new_empty(rows, out_frames, out_channels, dtype=torch.float32)
    if not out.numel():
        return out
    block_t = min(64, max(16, triton.next_power_of_2(out_frames)))
    block_n = min(64, max(16, triton.next_power_of_2(out_channels)))
    for _ in range(2):
        if rows * triton.cdiv(out_frames, block_t) * triton.cdiv(out_channels, block_n) < FEW_PROGRAMS:
            block_t, block_n = (32, block_n) if block_t > 32 else (block_t, min(block_n, 32))
    grid = (triton.cdiv(out_frames, block_t), triton.cdiv(out_channels, block_n), rows)
    _masked_conv_kernel[grid](
        x,
        weight.contiguous(),
        bias.contiguous(),
        None if lengths is None else lengths.contiguous(),
        out,
        frames,
        out_frames,
        out_channels,
        *x.stride(),
        IN_CHANNELS=in_channels,
        TAPS=taps,
        STRIDE=stride,
        MASK_OUTPUT=mask_output,
        BLOCK_T=block_t,
        BLOCK_N=block_n,
        BLOCK_K=32 if weight.dtype == torch.float32 else 64,
        num_warps=4,
        num_stages=3,
    )
    return out


@triton.jit(do_not_specialize=["frames", "out_frames"])
def _masked_conv_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    lengths_ptr,
    out_ptr,
    frames,
    out_frames,
    out_channels,
    stride_x_row,
    stride_x_frame,
    stride_x_channel,
    IN_CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    MASK_OUTPUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[row, t, n] = bias[n] + sum over taps and channels of x[row, t * STRIDE + tap - TAPS // 2, c] *
    weight[tap, n, c]; x is zero from the row's length on"""
    row = tl.program_id(2).to(tl.int64)
    frame = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    length = frames
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + row), frames)
    x_ptr += row * stride_x_row
    chunks: tl.constexpr = (IN_CHANNELS + BLOCK_K - 1) // BLOCK_K
    total = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.float32)
    for i in range(TAPS * chunks):
        tap = i // chunks
        k = (i % chunks) * BLOCK_K + tl.arange(0, BLOCK_K)
        at = frame * STRIDE + tap - TAPS // 2
        there = (at >= 0) & (at < length)
        inside = k < IN_CHANNELS
        place = x_ptr + at.to(tl.int64)[:, None] * stride_x_frame + k[None, :] * stride_x_channel
        x = tl.load(place, mask=there[:, None] & inside[None, :], other=0.0)
        place = weight_ptr + (tap * out_channels + channel)[None, :] * IN_CHANNELS + k[:, None]
        w = tl.load(place, mask=inside[:, None] & (channel < out_channels)[None, :], other=0.0)
        total = add_product(x.to(w.dtype), w, total)
    bias = tl.load(bias_ptr + channel, mask=channel < out_channels, other=0.0)
    total += bias[None, :]
    if MASK_OUTPUT:
        total = tl.where((frame * STRIDE < length)[:, None], total, 0.0)
    place = out_ptr + (row * out_frames + frame[:, None]) * out_channels + channel[None, :]
    tl.store(place, total, mask=(frame < out_frames)[:, None] & (channel < out_channels)[None, :])
