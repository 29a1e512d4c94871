"""Snake with one read and one write per number, where PyTorch takes four of each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["snake"]

TILE = 1024


def snake(x: Tensor, alpha: Tensor, mask: Tensor | None, out_dtype: torch.dtype, eps: float) -> Tensor:
    """A tile is long in the direction in which x lies in memory: frames, or channels side by side."""
    batch, channels, frames = x.shape
    out = torch.empty_like(x, dtype=out_dtype)
    if not out.numel():
        return out
    if x.stride(1) == 1 and channels > 1:
        block_c = min(triton.next_power_of_2(channels), TILE)
        block_t = min(triton.next_power_of_2(frames), TILE // block_c)
    else:
        block_t = min(triton.next_power_of_2(frames), TILE)
        block_c = min(triton.next_power_of_2(channels), TILE // block_t)
    grid = (triton.cdiv(frames, block_t), triton.cdiv(channels, block_c), batch)
    _snake_kernel[grid](
        x,
        alpha.contiguous(),
        mask,
        out,
        channels,
        frames,
        *x.stride(),
        *out.stride(),
        EPS=eps,
        HAS_MASK=mask is not None,
        BLOCK_C=block_c,
        BLOCK_T=block_t,
    )
    return out


@triton.jit(do_not_specialize=["frames"])
def _snake_kernel(
    x_ptr,
    alpha_ptr,
    mask_ptr,
    out_ptr,
    channels,
    frames,
    stride_x_row,
    stride_x_channel,
    stride_x_frame,
    stride_out_row,
    stride_out_channel,
    stride_out_frame,
    EPS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """out[row, channel] = (x + sin(alpha[channel] x)^2 / (alpha[channel] + EPS)) mask[row]"""
    row = tl.program_id(2).to(tl.int64)
    frame = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[None, :]
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)[:, None]
    inside = (channel < channels) & (frame < frames)
    alpha = tl.load(alpha_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)
    at = row * stride_x_row + channel * stride_x_channel + frame * stride_x_frame
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    y = x + sine * sine * (1.0 / (alpha + EPS))
    if HAS_MASK:
        y *= tl.load(mask_ptr + row * frames + frame, mask=frame < frames, other=0.0)
    to = row * stride_out_row + channel * stride_out_channel + frame * stride_out_frame
    tl.store(out_ptr + to, y.to(out_ptr.dtype.element_ty), mask=inside)
