"""Snake in one read and one write a number, where PyTorch takes four of each."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.snake import SNAKE_EPS

__all__ = ["snake"]

BLOCK = 1024


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    x, alpha = x.contiguous(), alpha.contiguous()
    batch, channels, frames = x.shape
    out = x.new_empty(x.shape)
    if out.numel():
        grid = (batch * channels, triton.cdiv(frames, BLOCK))
        _snake_kernel[grid](x, alpha, out, channels, frames, EPS=SNAKE_EPS, BLOCK=BLOCK)
    return out


@triton.jit
def _snake_kernel(x_ptr, alpha_ptr, out_ptr, channels, frames, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """out[row, channel] = x + sin(alpha[channel] x)^2 / (alpha[channel] + EPS)"""
    row = tl.program_id(0).to(tl.int64)
    frame = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = frame < frames
    alpha = tl.load(alpha_ptr + row % channels).to(tl.float32)
    x = tl.load(x_ptr + row * frames + frame, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    y = x + sine * sine * (1.0 / (alpha + EPS))
    tl.store(out_ptr + row * frames + frame, y.to(out_ptr.dtype.element_ty), mask=inside)
