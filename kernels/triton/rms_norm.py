"""RMSNorm: a program holds a whole row in its registers, so the row is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["rms_norm", "rms_norm_residual"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = _with_dense_rows(x)
    out = x.new_empty(x.shape)
    _launch(x, None, weight, out, None, eps)
    return out


def rms_norm_residual(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, residual = _with_dense_rows(x), _with_dense_rows(residual)
    out, total = x.new_empty(x.shape), x.new_empty(x.shape)
    _launch(x, residual, weight, out, total, eps)
    return out, total


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, total: Tensor | None, eps: float
) -> None:
    if not x.numel():
        return
    rows, size = x.shape
    block = triton.next_power_of_2(size)
    _rms_norm_kernel[(rows,)](
        x,
        residual,
        weight.contiguous(),
        out,
        total,
        size,
        x.stride(0),
        residual.stride(0) if residual is not None else 0,
        eps,
        BLOCK=block,
        HAS_RESIDUAL=residual is not None,
        num_warps=min(16, max(1, block // 512)),  # 16 numbers per thread, two loads of 16 bytes
    )


def _with_dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    total_ptr,
    size,
    stride_x_row,
    stride_residual_row,
    eps,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """total = x + residual; out[row] = total / sqrt(mean(total^2) + eps) * weight"""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    x = tl.load(x_ptr + row * stride_x_row + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        place = residual_ptr + row * stride_residual_row + column
        x += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        # Rounded before the norm: in the reference, the norm reads the sum in the dtype of x.
        rounded = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * size + column, rounded, mask=inside)
        x = rounded.to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / size + eps)
    # Rounded before the product, as in the reference and in the released code.
    normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * size + column, (normed * weight).to(out_ptr.dtype.element_ty), mask=inside)
