"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), normalised in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, address, check, check_device, check_number, check_plain
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)

__all__ = ["rms_norm", "rms_norm_reference", "rms_norm_residual", "rms_norm_residual_reference"]


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: str | None = None) -> Tensor:
    """x (rows, hidden), weight (hidden) -> (rows, hidden). Raises ValueError naming the argument that does
    not fit."""
    eps = _check(x, weight, eps)
    out: Tensor = resolve("rms_norm", backend, x.device, x.dtype, x, weight)(x, weight, eps)
    return out


def rms_norm_residual(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Adds the residual and takes the norm that comes next, in one pass over memory.

    x, residual (rows, hidden), weight (hidden) -> the normed sum and x + residual, both (rows, hidden)
    Raises ValueError naming the argument that does not fit.
    """
    eps = _check(x, weight, eps)
    check("residual", residual, x.dtype, x.shape, ("x", x), note=" like x")
    norm = resolve("rms_norm_residual", backend, x.device, x.dtype, x, residual, weight)
    out: tuple[Tensor, Tensor] = norm(x, residual, weight, eps)
    return out


def _check(x: Tensor, weight: Tensor, eps: float) -> float:
    check_plain("x", x)
    check_plain("weight", weight)
    if x.dim() != 2 or weight.shape != x.shape[1:]:
        raise ValueError(
            f"x, weight: expected (rows, n) and (n), got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    check("x", x, FLOATS, x.shape)
    if weight.dtype != x.dtype:
        raise ValueError(f"weight: expected {x.dtype} like x, got {weight.dtype}")
    check_device("weight", weight, "x", x)
    return check_number("eps", eps, least=0)


@register("rms_norm", "cpp", is_available=cpp_available, supports=cpp_float32)
def _rms_norm_cpp(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from antiphon.kernels import _C

    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    _C.rms_norm(address(x), address(weight), address(out), x.shape[0], x.shape[1], eps)
    return out


@register("rms_norm", "triton", is_available=triton_available, supports=on_triton)
def _rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from antiphon.kernels.triton.rms_norm import rms_norm as launch

    return launch(x, weight, eps)


@register("rms_norm", "torch")
def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = at_least_float32(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)  # rounded before the product, as the released code does


@register("rms_norm_residual", "cpp", is_available=cpp_available, supports=cpp_float32)
def _rms_norm_residual_cpp(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from antiphon.kernels import _C

    x, residual, weight = x.contiguous(), residual.contiguous(), weight.contiguous()
    out, total = torch.empty_like(x), torch.empty_like(x)
    _C.rms_norm_residual(
        address(x),
        address(residual),
        address(weight),
        address(out),
        address(total),
        x.shape[0],
        x.shape[1],
        eps,
    )
    return out, total


@register("rms_norm_residual", "triton", is_available=triton_available, supports=on_triton)
def _rms_norm_residual_triton(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from antiphon.kernels.triton.rms_norm import rms_norm_residual as launch

    return launch(x, residual, weight, eps)


@register("rms_norm_residual", "torch")
def rms_norm_residual_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return rms_norm_reference(total, weight, eps), total
