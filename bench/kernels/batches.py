"""Ragged batches of serving: where their tokens stand, and the caches they look at."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.bench.kernels.case import Setting
from antiphon.kernels import AttentionBatch, inverse_frequencies, rope_table
from antiphon.kernels.huge_pages import advise_huge_pages

__all__ = ["BLOCK_SIZE", "attention_batch", "attention_shapes", "cos_sin", "kv_cache"]

BLOCK_SIZE = 16
THETA = 500000.0


def attention_shapes(setting: Setting) -> list[tuple[int, int, int]]:
    """(sequences, new tokens of each, context of each): decoding alone and together, and reading a prompt."""
    if setting.device.type == "cuda":
        return [(1, 1, 1024), (16, 1, 1024), (64, 1, 1024), (64, 1, 4096), (1, 1, 8192), (8, 256, 256)]
    return [(1, 1, 256), (16, 1, 256), (16, 1, 1024), (1, 128, 128)]


def attention_batch(
    setting: Setting, seqs: int, new: int, context: int, block_size: int = BLOCK_SIZE
) -> AttentionBatch:
    """Sequences whose blocks lie about in the cache, as they do after a while of serving."""
    blocks = -(-context // block_size)
    table = torch.randperm(seqs * blocks, device=setting.device).view(seqs, blocks)
    positions = setting.arange(context - new, context)
    slots = table[:, positions // block_size] * block_size + positions % block_size
    return AttentionBatch(
        positions=positions.repeat(seqs).int(),
        slot_mapping=slots.flatten(),
        cu_seqlens_q=setting.arange(0, seqs * new + 1, new, dtype=torch.int32),
        context_lens=torch.full((seqs,), context, dtype=torch.int32, device=setting.device),
        block_table=table.int(),
    )


def kv_cache(
    setting: Setting, seqs: int, context: int, num_layers: int = 1, block_size: int = BLOCK_SIZE
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, all layers of a block beside each other as the engine has them."""
    sizes, blocks = setting.sizes, seqs * -(-context // block_size)
    shape = (blocks, num_layers, 2, block_size, sizes.num_kv_heads, sizes.head_dim)
    cache = torch.empty(shape, dtype=setting.dtype, device=setting.device)
    advise_huge_pages(cache)
    cache.normal_()
    return [(cache[:, layer, 0], cache[:, layer, 1]) for layer in range(num_layers)]


def cos_sin(setting: Setting, num_positions: int) -> Tensor:
    return rope_table(inverse_frequencies(setting.sizes.head_dim, THETA, None), num_positions, setting.device)
