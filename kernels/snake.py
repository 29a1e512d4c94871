"""Snake: x + sin(alpha x)^2 / alpha, alpha per channel (arXiv 2006.08195). Zero stays zero."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check
from antiphon.kernels.registry import on_triton_floats, register, resolve, triton_available

__all__ = ["SNAKE_EPS", "snake", "snake_reference"]

SNAKE_EPS = 1e-9
"""Added to alpha where alpha divides."""


def snake(
    x: Tensor,
    alpha: Tensor,
    mask: Tensor | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """x (batch, channels, frames), alpha (channels) in x's dtype or float32 -> the same shape

    mask: (batch, 1, frames) float32, 1 on valid frames and 0 on padding, which comes out as 0 if x is finite
    out_dtype: what the result is rounded to; None is x's dtype

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    check("x", x, FLOATS, ("batch", "channels", "frames"))
    kinds = x.dtype if x.dtype in (torch.float32, torch.float64) else (x.dtype, torch.float32)
    check("alpha", alpha, kinds, x.shape[1:2], ("x", x), note=" on {device}")
    if mask is not None:
        frames = (x.shape[0], 1, x.shape[2])
        check("mask", mask, torch.float32, frames, ("x", x), contiguous=True, note=" on {device}")
    if out_dtype is not None and out_dtype not in FLOATS:
        raise ValueError(f"out_dtype: expected a floating-point dtype, got {out_dtype!r:.40}")
    own = resolve("snake", backend, x.device, x.dtype, x, alpha)
    out: Tensor = own(x, alpha, out_dtype or x.dtype, mask)
    return out


@register("snake", "triton", is_available=triton_available, supports=on_triton_floats)
def _snake_triton(x: Tensor, alpha: Tensor, out_dtype: torch.dtype, mask: Tensor | None) -> Tensor:
    from antiphon.kernels.triton.snake import snake as launch

    return launch(x, alpha, mask, out_dtype, SNAKE_EPS)


@register("snake", "torch")
def snake_reference(
    x: Tensor, alpha: Tensor, out_dtype: torch.dtype | None = None, mask: Tensor | None = None
) -> Tensor:
    inverse = 1 / (alpha + SNAKE_EPS)
    out = torch.addcmul(x, (x * alpha[:, None]).sin_().square_(), inverse[:, None])
    return (out if mask is None else out * mask).to(out_dtype or x.dtype)
