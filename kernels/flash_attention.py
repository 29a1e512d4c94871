"""Prompt attention by flash-attn, if it is installed (Dao 2023, arXiv 2307.08691); NVIDIA GPUs, 16 bits.

Its paged interface wants blocks of 256 positions; ours are small, so that prompts can share them. So the keys
of a batch are gathered first: a copy of a few megabytes per layer, little beside a prompt's matrix products.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from antiphon.kernels.quantized_cache import Cache, cache_rows
from antiphon.kernels.registry import cuda_available

__all__ = ["PromptKeys", "flash_attn_available", "on_flash_attn", "prompt_attention"]


@dataclass(frozen=True)
class PromptKeys:
    """All keys of a batch's sequences, one sequence after the other. The host knows the sizes."""

    slots: Tensor
    """int64 (keys): block * block_size + offset"""
    cu_seqlens: Tensor
    """int32 (seqs + 1)"""
    max_seqlen_q: int
    max_seqlen_k: int


@cache
def flash_attn_available() -> bool:
    return importlib.util.find_spec("flash_attn") is not None and cuda_available()


def on_flash_attn(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def prompt_attention(
    q: Tensor, key_cache: Cache, value_cache: Cache, cu_seqlens_q: Tensor, keys: PromptKeys, scale: float
) -> Tensor:
    """`paged_attention`: q (tokens, heads, head_dim) -> (tokens, heads * head_dim)"""
    flash_attn = importlib.import_module("flash_attn")
    out: Tensor = flash_attn.flash_attn_varlen_func(
        q,
        cache_rows(key_cache, keys.slots, q.dtype),
        cache_rows(value_cache, keys.slots, q.dtype),
        cu_seqlens_q,
        keys.cu_seqlens,
        keys.max_seqlen_q,
        keys.max_seqlen_k,
        softmax_scale=scale,
        causal=True,  # aligned at the end: q holds only each sequence's last positions
    )
    return out.flatten(1)
