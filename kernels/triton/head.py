"""What kernels over a head's vocabulary share: a tile of its logits, and keys that sort like (logit, id).

A tile of logits is a tile of any product, so `linear` has it from here, too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from antiphon.kernels.triton.int8_rows import outlier_sums, row_scales

__all__ = ["INTERPRETED", "LEAST_KEY", "key_logit", "key_position", "ordered", "sort_key", "tile_logits"]

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Triton decides this on import. Its interpreter gets products of bfloat16 wrong."""

LEAST_KEY = tl.constexpr(-(1 << 63))
"""Below the key of every logit."""


@triton.jit
def tile_logits(
    hidden_ptr,
    weight_ptr,
    scale_ptr,
    about_ptr,
    row,
    weight_row,
    size,
    stride_hidden_row,
    stride_weight_row,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    ONE_ROW: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """hidden[row] weight[weight_row]^T in float32, (rows, weight rows); the indices are int64 and in range.
    The pointers are those of `Operands`: an int8 weight is widened in registers, unless hidden is int8, too.

    ONE_ROW: (1, weight rows) of hidden[0], summed up without tensor cores, which would have 15 idle rows.
    """
    k = tl.arange(0, BLOCK_K)
    w_ptr = weight_ptr + weight_row[:, None] * stride_weight_row + k[None, :]
    if ONE_ROW:
        parts = tl.zeros([weight_row.shape[0], BLOCK_K], dtype=tl.float32)
        for start in range(0, size, BLOCK_K):
            if EVEN_K:
                h = tl.load(hidden_ptr + start + k)
                w = tl.load(w_ptr + start)
            else:
                h = tl.load(hidden_ptr + start + k, mask=start + k < size, other=0.0)
                w = tl.load(w_ptr + start, mask=start + k[None, :] < size, other=0.0)
            parts += h.to(tl.float32)[None, :] * w.to(tl.float32)
        logits = tl.sum(parts, 1)[None, :]
    else:
        is_exact: tl.constexpr = about_ptr is not None
        h_ptr = hidden_ptr + row[:, None] * stride_hidden_row + k[None, :]
        dtype: tl.constexpr = tl.int32 if is_exact else tl.float32
        sums = tl.zeros([row.shape[0], weight_row.shape[0]], dtype=dtype)
        for start in range(0, size, BLOCK_K):
            if EVEN_K:
                h = tl.load(h_ptr + start)
                w = tl.load(w_ptr + start)
            else:
                inside = start + k[None, :] < size
                h = tl.load(h_ptr + start, mask=inside, other=0)
                w = tl.load(w_ptr + start, mask=inside, other=0)
            if INTERPRETED and is_exact:  # numpy multiplies integers slowly; these sums are exact, too
                zeros = tl.zeros([row.shape[0], weight_row.shape[0]], dtype=tl.float32)
                part = tl.dot(h.to(tl.float32), tl.trans(w.to(tl.float32)), zeros, input_precision="ieee")
                sums += part.to(tl.int32)
            elif is_exact:
                sums = tl.dot(h, tl.trans(w), sums, out_dtype=tl.int32)
            elif INTERPRETED:
                h, w = h.to(tl.float32), w.to(tl.float32)
                sums = tl.dot(h, tl.trans(w), sums, input_precision="ieee")
            else:
                sums = tl.dot(h, tl.trans(w.to(h.dtype)), sums, input_precision="ieee")
        logits = sums.to(tl.float32)
    if about_ptr is not None:
        logits *= row_scales(about_ptr, row, size)[:, None]
        logits = outlier_sums(logits, about_ptr, weight_ptr, row, weight_row, size, stride_weight_row)
    if scale_ptr is not None:
        logits *= tl.load(scale_ptr + weight_row)[None, :]
    return logits


@triton.jit
def ordered(x):
    """int32 that compare like the float32 `x`; -0.0 equals 0.0, and NaN equals minus infinity."""
    x = tl.where(x == x, x, float("-inf"))
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def sort_key(logit, position):
    """int64 that compare like the logits; of equal logits, the one at the lower position is greater."""
    return (ordered(logit).to(tl.int64) << 32) | (0x7FFFFFFF - position).to(tl.int64)


@triton.jit
def key_logit(key):
    bits = (key >> 32).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_position(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF)
