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
    x: Tensor, alpha: Tensor, *, out_dtype: torch.dtype | None = None, backend: str | None = None
) -> Tensor:
    """x (batch, channels, frames), alpha (channels) in x's dtype -> the same shape

    out_dtype: what the result is rounded to; None is x's dtype

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    check("x", x, FLOATS, ("batch", "channels", "frames"))
    check("alpha", alpha, x.dtype, x.shape[1:2], ("x", x), note=" on {device}")
    if out_dtype is not None and out_dtype not in FLOATS:
        raise ValueError(f"out_dtype: expected a floating-point dtype, got {out_dtype!r:.40}")
    out: Tensor = resolve("snake", backend, x.device, x.dtype, x, alpha)(x, alpha, out_dtype or x.dtype)
    return out


@register("snake", "triton", is_available=triton_available, supports=on_triton_floats)
def _snake_triton(x: Tensor, alpha: Tensor, out_dtype: torch.dtype) -> Tensor:
    from antiphon.kernels.triton.snake import snake as launch

    return launch(x, alpha, out_dtype, SNAKE_EPS)


@register("snake", "torch")
def snake_reference(x: Tensor, alpha: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    inverse = 1 / (alpha + SNAKE_EPS)
    return torch.addcmul(x, (x * alpha[:, None]).sin_().square_(), inverse[:, None]).to(out_dtype or x.dtype)
