"""x W^T with W in int8: read once, and widened in registers or multiplied as whole numbers by tensor cores.

W's tiles come from `tile_logits`, the heads' own. A residual is added, or SwiGLU's gate taken, before the
result is written: neither needs a pass of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.triton.head import INTERPRETED, tile_logits
from antiphon.kernels.triton.int8_rows import Operands, operands

__all__ = ["linear", "silu_mul_linear"]

FEW_OUTPUTS = 8192
"""Up to these, tiles are narrower: enough programs for all multiprocessors, each with enough to read"""


def linear(x: Tensor, weight: QuantizedWeight, residual: Tensor | None = None) -> Tensor:
    """x (rows, in) in up to 32 bits -> (rows, out) in the same"""
    product = operands(x, weight)
    rows, out_features = len(x), len(product.weight)
    out = torch.empty(rows, out_features, dtype=x.dtype, device=x.device)
    if not rows:
        return out
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    block_m, block_n, block_k, num_warps = _tile_shape(rows, out_features, product)
    _linear_kernel[(triton.cdiv(rows, block_m), triton.cdiv(out_features, block_n))](
        product.rows,
        product.weight,
        product.scales,
        product.about,
        residual,
        out,
        rows,
        product.weight.shape[1],
        out_features,
        product.rows.stride(0),
        product.weight.stride(0),
        0 if residual is None else residual.stride(0),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        EVEN_K=product.weight.shape[1] % block_k == 0,
        INTERPRETED=INTERPRETED,
        num_warps=num_warps,
        num_stages=3 if block_m >= 64 else 4,
    )
    return out


def silu_mul_linear(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """x (rows, in), weight (2 * out, in): gates, then what they are multiplied with -> (rows, out), which is
    silu(x gates^T) * (x others^T)"""
    product = operands(x, weight)
    rows, out_features = len(x), len(product.weight) // 2
    out = torch.empty(rows, out_features, dtype=x.dtype, device=x.device)
    if not rows:
        return out
    block_m, block_n, block_k, num_warps = _tile_shape(rows, out_features, product)
    _silu_mul_linear_kernel[(triton.cdiv(rows, block_m), triton.cdiv(out_features, block_n))](
        product.rows,
        product.weight,
        product.scales,
        product.about,
        out,
        rows,
        product.weight.shape[1],
        out_features,
        product.rows.stride(0),
        product.weight.stride(0),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        EVEN_K=product.weight.shape[1] % block_k == 0,
        INTERPRETED=INTERPRETED,
        num_warps=num_warps,
        num_stages=3 if block_m >= 64 else 4,
    )
    return out


def _tile_shape(rows: int, out_features: int, product: Operands) -> tuple[int, int, int, int]:
    """(rows, outputs, inputs) of a tile, and its warps.

    Few rows wait for memory: 8 KiB of the weight in each stage or step, and at least two programs for each of
    132 multiprocessors with 4,096 outputs. More rows have tiles that tensor cores are busy with.
    """
    width = product.rows.element_size()  # a weight is widened to it
    is_narrow = out_features <= FEW_OUTPUTS
    if rows == 1 and product.about is None:
        return (1, 8, 1024, 4) if is_narrow else (1, 16, 512, 4)
    if rows <= 16:
        return (16, 16, 512 // width, 4) if is_narrow else (16, 32, 256 // width, 4)
    if rows <= 32:
        return 32, 32 if is_narrow else 64, 256 // width, 4
    if rows <= 64:
        return 64, 64, 128 // width, 4
    return (128, 64, 32, 4) if width == 4 else (128, 128, 128 // width, 8)


@triton.jit(do_not_specialize=["rows", "stride_residual_row"])
def _linear_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    about_ptr,
    residual_ptr,
    out_ptr,
    rows,
    size,
    out_features,
    stride_x_row,
    stride_weight_row,
    stride_residual_row,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """out = residual + x weight^T, where each weight row has a scale"""
    # Programs that read the same weights run side by side, so that these come from memory once.
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    y = tile_logits(
        x_ptr,
        weight_ptr,
        scale_ptr,
        about_ptr,
        tl.minimum(row, rows - 1).to(tl.int64),
        tl.minimum(column, out_features - 1).to(tl.int64),
        size,
        stride_x_row,
        stride_weight_row,
        BLOCK_K,
        EVEN_K,
        BLOCK_M == 1,
        INTERPRETED,
    )
    row = row.to(tl.int64)
    inside = (row[:, None] < rows) & (column[None, :] < out_features)
    if residual_ptr is not None:
        # Rounded once, after the sum, as `addmm` does.
        place = residual_ptr + row[:, None] * stride_residual_row + column[None, :]
        y += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        out_ptr + row[:, None] * out_features + column[None, :], y.to(out_ptr.dtype.element_ty), mask=inside
    )


@triton.jit(do_not_specialize=["rows"])
def _silu_mul_linear_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    about_ptr,
    out_ptr,
    rows,
    size,
    out_features,
    stride_x_row,
    stride_weight_row,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """out = silu(x gate^T) * (x up^T), of the first and of the last `out_features` rows of the weight"""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(column, out_features - 1).to(tl.int64)
    gate = tile_logits(
        x_ptr,
        weight_ptr,
        scale_ptr,
        about_ptr,
        tl.minimum(row, rows - 1).to(tl.int64),
        weight_row,
        size,
        stride_x_row,
        stride_weight_row,
        BLOCK_K,
        EVEN_K,
        BLOCK_M == 1,
        INTERPRETED,
    )
    up = tile_logits(
        x_ptr,
        weight_ptr,
        scale_ptr,
        about_ptr,
        tl.minimum(row, rows - 1).to(tl.int64),
        weight_row + out_features,
        size,
        stride_x_row,
        stride_weight_row,
        BLOCK_K,
        EVEN_K,
        BLOCK_M == 1,
        INTERPRETED,
    )
    dtype = out_ptr.dtype.element_ty
    # Rounded where the product, and then the gate's function, would have written and read them.
    gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    row = row.to(tl.int64)
    inside = (row[:, None] < rows) & (column[None, :] < out_features)
    tl.store(out_ptr + row[:, None] * out_features + column[None, :], (gate * up).to(dtype), mask=inside)
