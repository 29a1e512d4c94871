"""The gate of SwiGLU: silu(gate) * up (Shazeer 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.checks import FLOATS, address, check
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)

__all__ = ["silu_mul", "silu_mul_reference"]


def silu_mul(gate_up: Tensor, *, backend: str | None = None) -> Tensor:
    """gate_up (rows, 2 * n), gate first -> (rows, n). Raises ValueError if `gate_up` does not fit."""
    check("gate_up", gate_up, FLOATS, ("rows", "2 * n"))
    if gate_up.shape[1] % 2:
        raise ValueError(f"gate_up: expected (rows, 2 * n), got {tuple(gate_up.shape)}")
    out: Tensor = resolve("silu_mul", backend, gate_up.device, gate_up.dtype, gate_up)(gate_up)
    return out


@register("silu_mul", "cpp", is_available=cpp_available, supports=cpp_float32)
def _silu_mul_cpp(gate_up: Tensor) -> Tensor:
    from antiphon.kernels import _C

    gate_up = gate_up.contiguous()
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    _C.silu_mul(address(gate_up), address(out), rows, size)
    return out


@register("silu_mul", "triton", is_available=triton_available, supports=on_triton)
def _silu_mul_triton(gate_up: Tensor) -> Tensor:
    from antiphon.kernels.triton.silu_mul import silu_mul as launch

    return launch(gate_up)


@register("silu_mul", "torch")
def silu_mul_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
