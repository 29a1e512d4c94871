"""GroupNorm with Mish over valid frames: partial statistics of stretches of frames, then the norm.

A group of a row has some ten thousand numbers, and there are too few rows to fill a GPU, so each stretch has
a program of its own. The second pass merges the statistics (Chan et al. 1979) and finds x in the L2 cache:
2 MB for two rows of 256 channels and 1000 frames. Where a group fits into a program's registers, as in a
chunk of streamed speech, one launch does both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["masked_group_norm"]

TILE = 4096
WHOLE_GROUP = 16_384
"""Numbers of a group that a program can hold: 64 a thread."""


def masked_group_norm(
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
    batch, channels, frames = x.shape
    if x.stride(1) == 1:  # laid out as x is, also if x is a part of more channels
        out = x.new_empty(batch, frames, channels, dtype=out_dtype).mT
    else:
        out = x.new_empty(x.shape, dtype=out_dtype)
    if not x.numel():
        return out
    group_size = channels // num_groups
    block_c = triton.next_power_of_2(group_size)
    is_whole = block_c * triton.next_power_of_2(frames) <= WHOLE_GROUP
    block_t = triton.next_power_of_2(frames)
    if not is_whole:
        block_t = min(max(TILE // block_c, 1), block_t)
    stretches = triton.cdiv(frames, block_t)
    strides_mask = (0, 0) if mask is None else (mask.stride(0), mask.stride(2))
    statistics = None
    if not is_whole:
        statistics = x.new_empty(batch, num_groups, 3, stretches, dtype=torch.float32)
        _statistics_kernel[(stretches, num_groups, batch)](
            x,
            mask,
            statistics,
            group_size,
            frames,
            *x.stride(),
            *strides_mask,
            BLOCK_C=block_c,
            BLOCK_T=block_t,
        )
    _norm_kernel[(stretches, num_groups, batch)](
        x,
        mask,
        statistics,
        weight.contiguous(),
        bias.contiguous(),
        None if shift is None else shift.contiguous(),
        residual,
        out,
        group_size,
        frames,
        eps,
        *x.stride(),
        *((0, 0, 0) if residual is None else residual.stride()),
        *out.stride(),
        *strides_mask,
        BLOCK_C=block_c,
        BLOCK_T=block_t,
        STRETCHES=triton.next_power_of_2(stretches),
        num_warps=8 if block_c * block_t > 2 * TILE else 4,
    )
    return out


@triton.jit
def _tile(
    x_ptr,
    mask_ptr,
    group_size,
    frames,
    stride_x_row,
    stride_x_channel,
    stride_x_frame,
    stride_mask_row,
    stride_mask_frame,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """A stretch of a row's group in float32, (channels, frames); its channels; its frames; which of these are
    valid; and which of the channels belong to the group."""
    row = tl.program_id(2).to(tl.int64)
    in_group = tl.arange(0, BLOCK_C)
    channel = tl.program_id(1) * group_size + in_group
    frame = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = frame < frames
    if mask_ptr is not None:
        mask_ptr += row * stride_mask_row + frame.to(tl.int64) * stride_mask_frame
        valid &= tl.load(mask_ptr, mask=valid, other=0.0).to(tl.float32) != 0.0
    x_ptr += row * stride_x_row
    x_ptr += channel.to(tl.int64)[:, None] * stride_x_channel + frame.to(tl.int64)[None, :] * stride_x_frame
    is_in_group = in_group[:, None] < group_size
    x = tl.load(x_ptr, mask=is_in_group & valid[None, :], other=0.0).to(tl.float32)
    return x, channel, frame, valid, is_in_group


@triton.jit
def _statistics(x, valid, is_in_group, group_size):
    """The count, the mean, and the sum of squared distances from it"""
    count = (tl.sum(valid.to(tl.int32), 0) * group_size).to(tl.float32)
    mean = tl.sum(tl.sum(x, 1), 0) / tl.maximum(count, 1.0)
    off = tl.where(is_in_group & valid[None, :], x - mean, 0.0)
    return count, mean, tl.sum(tl.sum(off * off, 1), 0)


@triton.jit(do_not_specialize=["frames"])
def _statistics_kernel(
    x_ptr,
    mask_ptr,
    statistics_ptr,
    group_size,
    frames,
    stride_x_row,
    stride_x_channel,
    stride_x_frame,
    stride_mask_row,
    stride_mask_frame,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """statistics[row, group, :, stretch]: the count, the mean, and the sum of squared distances from it"""
    x, _, _, valid, is_in_group = _tile(
        x_ptr,
        mask_ptr,
        group_size,
        frames,
        stride_x_row,
        stride_x_channel,
        stride_x_frame,
        stride_mask_row,
        stride_mask_frame,
        BLOCK_C,
        BLOCK_T,
    )
    count, mean, squares = _statistics(x, valid, is_in_group, group_size)
    stretches = tl.num_programs(0)
    statistics_ptr += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * 3 * stretches
    statistics_ptr += tl.program_id(0)
    tl.store(statistics_ptr, count)
    tl.store(statistics_ptr + stretches, mean)
    tl.store(statistics_ptr + 2 * stretches, squares)


@triton.jit(do_not_specialize=["frames"])
def _norm_kernel(
    x_ptr,
    mask_ptr,
    statistics_ptr,
    weight_ptr,
    bias_ptr,
    shift_ptr,
    residual_ptr,
    out_ptr,
    group_size,
    frames,
    eps,
    stride_x_row,
    stride_x_channel,
    stride_x_frame,
    stride_residual_row,
    stride_residual_channel,
    stride_residual_frame,
    stride_out_row,
    stride_out_channel,
    stride_out_frame,
    stride_mask_row,
    stride_mask_frame,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    STRETCHES: tl.constexpr,
):
    """out = (mish((x - mean) / sqrt(variance + eps) * weight + bias) + shift) on valid frames, 0 elsewhere;
    + residual on all. Without statistics the program's tile is the whole group."""
    x, channel, frame, valid, is_in_group = _tile(
        x_ptr,
        mask_ptr,
        group_size,
        frames,
        stride_x_row,
        stride_x_channel,
        stride_x_frame,
        stride_mask_row,
        stride_mask_frame,
        BLOCK_C,
        BLOCK_T,
    )
    if statistics_ptr is None:
        count, mean, squares = _statistics(x, valid, is_in_group, group_size)
        variance = squares / tl.maximum(count, 1.0)
    else:
        stretch, stretches = tl.arange(0, STRETCHES), tl.num_programs(0)
        there = stretch < stretches
        statistics_ptr += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * 3 * stretches
        counts = tl.load(statistics_ptr + stretch, mask=there, other=0.0)
        means = tl.load(statistics_ptr + stretches + stretch, mask=there, other=0.0)
        squares = tl.load(statistics_ptr + 2 * stretches + stretch, mask=there, other=0.0)
        count = tl.maximum(tl.sum(counts, 0), 1.0)
        mean = tl.sum(counts * means, 0) / count
        variance = tl.sum(squares + counts * (means - mean) * (means - mean), 0) / count

    in_group = tl.arange(0, BLOCK_C) < group_size
    weight = tl.load(weight_ptr + channel, mask=in_group, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + channel, mask=in_group, other=0.0).to(tl.float32)[:, None]
    y = (x - mean) * (1.0 / tl.sqrt(variance + eps)) * weight + bias
    # mish(y) = y tanh(log(1 + e^y)) = y n / (n + 2), n = e^y (e^y + 2): nothing cancels; from 20 on it is y
    power = tl.exp(tl.minimum(y, 20.0))
    n = power * (power + 2.0)
    y = y * (n / (n + 2.0))
    if shift_ptr is not None:
        y += tl.load(shift_ptr + channel, mask=in_group, other=0.0).to(tl.float32)[:, None]
    y = tl.where(valid[None, :], y, 0.0)
    is_there = is_in_group & (frame[None, :] < frames)
    if residual_ptr is not None:
        residual_ptr += tl.program_id(2).to(tl.int64) * stride_residual_row
        residual_ptr += channel.to(tl.int64)[:, None] * stride_residual_channel
        residual_ptr += frame.to(tl.int64)[None, :] * stride_residual_frame
        y += tl.load(residual_ptr, mask=is_there, other=0.0).to(tl.float32)
    out_ptr += tl.program_id(2).to(tl.int64) * stride_out_row
    out_ptr += channel.to(tl.int64)[:, None] * stride_out_channel
    out_ptr += frame.to(tl.int64)[None, :] * stride_out_frame
    tl.store(out_ptr, y.to(out_ptr.dtype.element_ty), mask=is_there)
