"""Rotary embedding in the rotate-half form, for the kernels that rotate what they read."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["head_blocks", "move_heads", "rotated"]


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
