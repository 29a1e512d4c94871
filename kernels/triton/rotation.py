"""Rotary embedding in the rotate-half form, for the kernels that rotate what they read."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["head_blocks", "move_heads", "quantize_heads", "rotated"]


def head_blocks(num_heads: int, head_dim: int) -> dict[str, int]:
    """Sizes for `move_heads`: 1024 pairs of numbers per program, and loads of 16 bytes in 16 bits."""
    half = triton.next_power_of_2(head_dim // 2)
    heads = min(triton.next_power_of_2(num_heads), max(1, 1024 // half))
    warps = min(8, max(1, heads * half // 256))
    return {"HEAD_DIM": head_dim, "BLOCK_HEADS": heads, "BLOCK_HALF": half, "num_warps": warps}


@triton.jit
def rotated(a, b, cos, sin):
    """The halves of a head, turned: as complex numbers, (a + ib) (cos + i sin)."""
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def move_heads(
    source_ptr,
    target_ptr,
    angle_ptr,
    first,
    num_heads,
    ROTATES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """target[h] = source[h], rotated by the angle (head_dim: cos, then sin) or as it is, for BLOCK_HEADS
    heads from `first` on, or for those that are left. The target may be the source."""
    head = first + tl.arange(0, BLOCK_HEADS)[:, None]
    i = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < num_heads) & (i < HEAD_DIM // 2)
    place = head * HEAD_DIM + i
    a = tl.load(source_ptr + place, mask=inside)
    b = tl.load(source_ptr + place + HEAD_DIM // 2, mask=inside)
    if ROTATES:
        cos = tl.load(angle_ptr + i, mask=i < HEAD_DIM // 2, other=0.0).to(tl.float32)
        sin = tl.load(angle_ptr + HEAD_DIM // 2 + i, mask=i < HEAD_DIM // 2, other=0.0).to(tl.float32)
        c, d = rotated(a.to(tl.float32), b.to(tl.float32), cos, sin)
        a, b = c.to(target_ptr.dtype.element_ty), d.to(target_ptr.dtype.element_ty)
    tl.store(target_ptr + place, a, mask=inside)
    tl.store(target_ptr + place + HEAD_DIM // 2, b, mask=inside)


@triton.jit
def quantize_heads(
    source_ptr,
    target_ptr,
    scales_ptr,
    stride_scale,
    angle_ptr,
    first,
    num_heads,
    ROTATES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """`move_heads` into int8: the nearest whole numbers to x * (127 / max|x|), and the scale max|x| / 127 of
    each head, `stride_scale` apart; zeros and the scale NaN where a number is NaN or infinity."""
    head = first + tl.arange(0, BLOCK_HEADS)
    i = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < num_heads)[:, None] & (i < HEAD_DIM // 2)
    place = head[:, None] * HEAD_DIM + i
    a = tl.load(source_ptr + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source_ptr + place + HEAD_DIM // 2, mask=inside, other=0.0).to(tl.float32)
    if ROTATES:
        cos = tl.load(angle_ptr + i, mask=i < HEAD_DIM // 2, other=0.0).to(tl.float32)
        sin = tl.load(angle_ptr + HEAD_DIM // 2 + i, mask=i < HEAD_DIM // 2, other=0.0).to(tl.float32)
        a, b = rotated(a, b, cos, sin)
    is_finite = tl.sum(tl.abs(a) + tl.abs(b), axis=1) <= 3.4028234e38
    largest = tl.max(tl.maximum(tl.abs(a), tl.abs(b)), axis=1)
    counts = is_finite & (largest >= 1e-30)
    factor = 127.0 / tl.where(counts, largest, 1.0)
    scale = tl.where(counts, largest / 127.0, tl.where(is_finite, 0.0, float("nan")))
    tl.store(scales_ptr + head * stride_scale, scale, mask=head < num_heads)
    # Adding 1.5 * 2^23 rounds to a whole number, of equally near ones the even. A GPU may fuse the product
    # with the sum, which only decides otherwise between numbers that are as near up to float32's rounding.
    a = tl.where(counts[:, None], (a * factor[:, None] + 12582912.0) - 12582912.0, 0.0)
    b = tl.where(counts[:, None], (b * factor[:, None] + 12582912.0) - 12582912.0, 0.0)
    tl.store(target_ptr + place, a.to(tl.int8), mask=inside)
    tl.store(target_ptr + place + HEAD_DIM // 2, b.to(tl.int8), mask=inside)
