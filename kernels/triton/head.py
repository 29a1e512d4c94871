"""What kernels over a head's vocabulary share: a tile of its logits, and keys that sort like (logit, id)."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTERPRETED", "LEAST_KEY", "key_logit", "key_position", "ordered", "sort_key", "tile_logits"]

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Triton decides this on import. Its interpreter gets products of bfloat16 wrong."""

LEAST_KEY = tl.constexpr(-(1 << 63))
"""Below the key of every logit."""


@triton.jit
def tile_logits(
    hidden_ptr,
    weight_ptr,
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
        return tl.sum(parts, 1)[None, :]
    h_ptr = hidden_ptr + row[:, None] * stride_hidden_row + k[None, :]
    logits = tl.zeros([row.shape[0], weight_row.shape[0]], dtype=tl.float32)
    for start in range(0, size, BLOCK_K):
        if EVEN_K:
            h = tl.load(h_ptr + start)
            w = tl.load(w_ptr + start)
        else:
            inside = start + k[None, :] < size
            h = tl.load(h_ptr + start, mask=inside, other=0.0)
            w = tl.load(w_ptr + start, mask=inside, other=0.0)
        if INTERPRETED:
            h, w = h.to(tl.float32), w.to(tl.float32)
        logits = tl.dot(h, tl.trans(w), logits, input_precision="ieee")
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
