"""Huge pages for what is read from memory in every step: weights and the KV cache.

The processor prefetches only within a page, and keeps the addresses of few pages at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from antiphon.kernels.registry import cpp_available

__all__ = ["WeightMemory", "advise_huge_pages", "empty_weight"]

HUGE_PAGE = 2 << 20
BLOCK_BYTES = 64 << 20
CACHE_LINE = 64


class WeightMemory:
    """Memory on the CPU for weights that are read one after the other, side by side in huge pages.

    By itself a weight has huge pages only where it fills one: a matrix of a megabyte has none. Memory is
    taken by the block, of which nothing is used but what has been written, and a block is given back with the
    last of its weights.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor that has not been written to."""
        num_bytes = prod(shape) * dtype.itemsize
        if num_bytes > BLOCK_BYTES // 4:  # the rest of a block would be wasted
            own = _huge_pages(num_bytes)[:num_bytes]
            return own.view(dtype).view(*shape)
        if self._used + num_bytes > len(self._block):
            self._block, self._used = _huge_pages(BLOCK_BYTES), 0
        part = self._block[self._used : self._used + num_bytes]
        self._used += -(-num_bytes // CACHE_LINE) * CACHE_LINE
        return part.view(dtype).view(*shape)


def empty_weight(shape: Sequence[int], dtype: torch.dtype, memory: WeightMemory | None) -> Tensor:
    """A contiguous tensor that has not been written to, in `memory` or by itself."""
    if memory is not None:
        return memory.empty(shape, dtype)
    weight = torch.empty(shape, dtype=dtype)
    advise_huge_pages(weight)
    return weight


def _huge_pages(num_bytes: int) -> Tensor:
    """uint8 (num_bytes or a little more) that begins with a huge page"""
    memory = torch.empty(num_bytes + HUGE_PAGE, dtype=torch.uint8)
    advise_huge_pages(memory)
    return memory[-memory.data_ptr() % HUGE_PAGE :]


def advise_huge_pages(unwritten: Tensor) -> None:
    """Asks for huge pages for a new tensor on the CPU. Only a hint: it does nothing where the system has none
    to give."""
    if cpp_available() and unwritten.device.type == "cpu":
        from antiphon.kernels import _C

        _C.advise_huge_pages(unwritten.data_ptr(), unwritten.numel() * unwritten.element_size())
