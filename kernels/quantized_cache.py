"""A paged KV cache in eight bits: whole numbers from -127 to 127, and a scale for each head and position.

Symmetric. A key's product with a query is that of its whole numbers, times the scale; a value's weight is
multiplied by the scale first. A head of a position is quantized by itself as it is written, so what is
written does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, address, check
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized import LARGEST, LEAST_LARGEST

__all__ = [
    "Cache",
    "Caches",
    "QuantizedCache",
    "cache_address",
    "dense_blocks",
    "layer_strides",
    "numbers_of",
    "quantize_heads",
    "scales_of",
    "write_rows",
]


@dataclass(frozen=True, eq=False)
class QuantizedCache:
    """The keys or the values of a layer: values[b, i, h] * scales[b, h, i] are those of one head of position
    i of block b."""

    values: Tensor
    """int8 (num_blocks, block_size, num_kv_heads, head_dim)"""
    scales: Tensor
    """float32 (num_blocks, num_kv_heads, block_size)"""

    def dequantized(self, blocks: Tensor | slice = slice(None)) -> Tensor:
        """float32 (blocks, block_size, num_kv_heads, head_dim)"""
        return self.values[blocks].float() * self.scales[blocks].transpose(1, 2)[..., None]


Cache: TypeAlias = "Tensor | QuantizedCache"
Caches: TypeAlias = "tuple[Cache, Cache]"
"""The keys and the values of a layer"""


def numbers_of(cache: Cache) -> Tensor:
    """(num_blocks, block_size, num_kv_heads, head_dim), whose shape and strides are those of the cache"""
    return cache.values if isinstance(cache, QuantizedCache) else cache


def scales_of(cache: Cache) -> Tensor:
    """Of a quantized cache"""
    assert isinstance(cache, QuantizedCache), "a cache in the queries' dtype has no scales"
    return cache.scales


CacheAddress: TypeAlias = "tuple[int, int, int, int, int, int, int, int]"


def cache_address(keys: Cache, values: Cache) -> CacheAddress:
    """A layer's cache as the C++ kernels take it, see csrc/cpu/bindings.h."""
    k, v = numbers_of(keys), numbers_of(values)
    place = address(k), address(v), k.stride(0), k.stride(1), k.shape[1]
    if isinstance(keys, QuantizedCache):
        return *place, address(keys.scales), address(scales_of(values)), keys.scales.stride(0)
    return *place, 0, 0, 0


def layer_strides(caches: Sequence[Caches]) -> tuple[int, int]:
    """Numbers from one layer's keys to the next layer's, and from their scales to the next."""
    if len(caches) == 1:
        return 0, 0
    first, second = caches[0][0], caches[1][0]
    numbers = _distance(numbers_of(first), numbers_of(second))
    return numbers, _distance(first.scales, scales_of(second)) if isinstance(first, QuantizedCache) else 0


def _distance(first: Tensor, second: Tensor) -> int:
    return (second.data_ptr() - first.data_ptr()) // first.element_size()


def quantize_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., head_dim) -> int8 (..., head_dim), float32 (...): the nearest whole numbers to
    x * (127 / max|x|), of equally near ones the even, and the scales max|x| / 127. Heads with NaN or infinity
    are zeros, with the scale NaN.

    Raises ValueError if x is not floating point.
    """
    check("x", x, FLOATS, tuple(x.shape) if isinstance(x, Tensor) else ())
    x = at_least_float32(x)
    is_finite = x.abs().sum(-1).isfinite()
    largest = torch.where(is_finite, x.abs().amax(-1), 0.0)
    counts = largest >= LEAST_LARGEST
    # A number divided by a tensor would be rounded twice: it is multiplied by the reciprocal.
    factors = torch.where(counts, torch.full_like(largest, LARGEST) / largest, 0.0)
    values = torch.where(counts[..., None], x * factors[..., None], 0.0).round_().to(torch.int8)
    scales = torch.where(is_finite, torch.where(counts, largest / LARGEST, 0.0), torch.nan)
    return values, scales.float()


def write_rows(cache: Cache, slots: Tensor, rows: Tensor) -> None:
    """The reference's write: rows (n, num_kv_heads, head_dim) to the slots int64 (n)"""
    block_size = numbers_of(cache).shape[1]
    block, offset = slots // block_size, slots % block_size
    if isinstance(cache, QuantizedCache):
        values, scales = quantize_heads(rows)
        cache.values[block, offset] = values
        cache.scales[block, :, offset] = scales
    else:
        cache[block, offset] = rows.to(cache.dtype)


def dense_blocks(cache: Cache, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole blocks int64 (n): (n, block_size, num_kv_heads, head_dim)"""
    return cache.dequantized(blocks).to(dtype) if isinstance(cache, QuantizedCache) else cache[blocks]
