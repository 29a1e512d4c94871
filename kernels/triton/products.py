"""Matrix products that go on from a sum, in the precision of their factors."""

from __future__ import annotations

import triton
import triton.language as tl

from antiphon.kernels.triton import head

__all__ = ["add_product"]

INTERPRETED = tl.constexpr(head.INTERPRETED)


@triton.jit
def add_product(a, b, total):
    """total + a b, in float32; a and b of one dtype, rounded no further.

    Of float32, three products of TF32 parts give 22 bits of each factor, near its own 24, on tensor cores;
    "ieee" takes several times as long.
    """
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="tf32x3")
