"""SwiGLU's gate: two reads and one write per number."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["silu_mul"]

BLOCK = 1024


def silu_mul(gate_up: Tensor) -> Tensor:
    gate_up = gate_up.contiguous()
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    if out.numel():
        _silu_mul_kernel[(rows, triton.cdiv(size, BLOCK))](gate_up, out, size, BLOCK=BLOCK)
    return out


@triton.jit
def _silu_mul_kernel(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """out[row, i] = silu(x[row, i]) * x[row, size + i]"""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(x_ptr + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    # Rounded before the product: in 16 bits the reference, like the released code, rounds there too.
    gate = (gate / (1.0 + tl.exp(-gate))).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * size + column, (gate * up).to(out_ptr.dtype.element_ty), mask=inside)
