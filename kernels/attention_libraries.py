"""Libraries that can compute paged attention in place of our kernels: what each takes, and what it is for.

They run only if named. Ours come first: what they compute for a sequence depends less on the others of its
batch, and nobody has measured these beside them yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from antiphon.kernels.quantized_cache import Cache, QuantizedCache, numbers_of
from antiphon.kernels.registry import Backend, cuda_available

__all__ = ["LIBRARIES", "AttentionLibrary", "is_installed", "library_available", "on_16_bit_gpu"]


@dataclass(frozen=True)
class AttentionLibrary:
    backend: Backend
    """Its name in the registry, which is also that of the extra"""
    distribution: str
    """Its name on PyPI"""
    module: str
    use: str
    """What it would compute, as `antiphon doctor` says it"""
    page_multiple: int
    """What the positions of a block must be a multiple of"""
    head_dims: Container[int]
    head_dims_in_words: str

    def refusal(self, head_dim: int, block_sizes: Sequence[int]) -> str | None:
        """Why it does not take caches of such heads and blocks, if it does not."""
        if head_dim not in self.head_dims:
            return f"{self.backend} takes heads of {self.head_dims_in_words} numbers, got {head_dim}"
        if any(size % self.page_multiple for size in block_sizes):
            sizes = " and ".join(map(str, dict.fromkeys(block_sizes)))
            return f"{self.backend} reads pages of a multiple of {self.page_multiple} positions, got {sizes}"
        return None

    def check_cache(self, cache: Cache) -> None:
        """Raise ValueError for a cache that it does not read."""
        if isinstance(cache, QuantizedCache):
            raise ValueError(f"key_cache: {self.backend} reads keys in 16 bits, got a QuantizedCache")
        block_size, _, head_dim = numbers_of(cache).shape[1:]
        refusal = self.refusal(head_dim, [block_size])
        if refusal is not None:
            raise ValueError(f"key_cache: {refusal}")


LIBRARIES: dict[str, AttentionLibrary] = {
    library.backend: library
    for library in (
        AttentionLibrary(
            backend="flash-attn",
            distribution="flash-attn",
            module="flash_attn",
            use="prompts and decode steps, recorded ones too, with a block_size of a multiple of 256",
            page_multiple=256,
            head_dims=range(8, 257, 8),
            head_dims_in_words="a multiple of 8, up to 256",
        ),
        AttentionLibrary(
            backend="flashinfer",
            distribution="flashinfer-python",
            module="flashinfer",
            use="prompts, and decode steps that are not recorded, with any block_size",
            page_multiple=1,
            head_dims=(64, 128, 256),
            head_dims_in_words="64, 128 or 256",
        ),
    )
}


def is_installed(library: AttentionLibrary) -> bool:
    """Whether it is there to be imported; it is not."""
    return importlib.util.find_spec(library.module) is not None


@cache
def library_available(backend: str) -> bool:
    return is_installed(LIBRARIES[backend]) and cuda_available()


def on_16_bit_gpu(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
