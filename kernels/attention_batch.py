"""A ragged batch over a paged cache: where its tokens stand, and the checks that it fits together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.checks import (
    INT32_MAX,
    check,
    check_device,
    check_each_once,
    check_plain,
    check_range,
    check_written,
    has_overlap,
    index_range,
    wrong_sequences,
)
from antiphon.kernels.flash_attention import PromptKeys

__all__ = [
    "AttentionBatch",
    "check_batch",
    "check_cache",
    "check_caches_written",
    "check_sequences",
    "check_slots",
]


@dataclass(frozen=True)
class AttentionBatch:
    """Where the tokens of a ragged batch stand, in their sequences and in the cache."""

    positions: Tensor
    """int32 (tokens)"""
    slot_mapping: Tensor
    """int64 (tokens): block * block_size + offset; -1 for padding"""
    cu_seqlens_q: Tensor
    """int32 (seqs + 1)"""
    context_lens: Tensor
    """int32 (seqs): keys of each sequence, this batch's included"""
    block_table: Tensor
    """int32 (seqs, max_blocks)"""
    prompt_keys: PromptKeys | None = None
    """Given for prompts on a GPU, for backends that want keys side by side"""

    @property
    def num_seqs(self) -> int:
        return self.context_lens.shape[0]


def check_batch(batch: object) -> None:
    if not isinstance(batch, AttentionBatch):
        raise ValueError(f"batch: expected an AttentionBatch, got {type(batch).__name__}")


def check_cache(key_cache: Tensor, value_cache: Tensor, like: Tensor) -> None:
    """A layer's keys and values, which share one shape and one set of strides."""
    check_plain("key_cache", key_cache)
    check_plain("value_cache", value_cache)
    if key_cache.dim() != 4 or 0 in key_cache.shape[1:] or key_cache.shape[3] % 2:
        raise ValueError(
            "key_cache: expected (num_blocks, block_size, num_kv_heads, head_dim), head_dim even, "
            f"got {tuple(key_cache.shape)}"
        )
    if value_cache.shape != key_cache.shape or value_cache.stride() != key_cache.stride():
        raise ValueError(
            f"value_cache: expected {tuple(key_cache.shape)} with strides {key_cache.stride()} "
            f"like key_cache, got {tuple(value_cache.shape)} with {value_cache.stride()}"
        )
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        if cache.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype} like the queries, got {cache.dtype}")
        check_device(name, cache, "the queries", like)
    (num_kv_heads, head_dim), (head, number) = key_cache.shape[2:], key_cache.stride()[2:]
    if number != 1 or (num_kv_heads > 1 and head != head_dim) or key_cache.shape[1] > INT32_MAX:
        raise ValueError(f"key_cache: expected positions to be contiguous, got strides {key_cache.stride()}")


def check_slots(batch: AttentionBatch, like: Tensor, key_cache: Tensor) -> None:
    """Each token is written to a slot of its own, or nowhere (-1)."""
    slots = batch.slot_mapping
    check("batch.slot_mapping", slots, torch.int64, batch.positions.shape, ("qkv", like), contiguous=True)
    check_range("batch.slot_mapping", slots, -1, key_cache.shape[0] * key_cache.shape[1] - 1)
    check_each_once("batch.slot_mapping", slots)


def check_sequences(batch: AttentionBatch, q: Tensor, key_cache: Tensor) -> None:
    """Which rows of q (tokens, ...) belong to which sequence, and where that sequence's keys are."""
    check("batch.context_lens", batch.context_lens, torch.int32, ("seqs",), ("q", q), contiguous=True)
    seqs = len(batch.context_lens)
    check("batch.cu_seqlens_q", batch.cu_seqlens_q, torch.int32, (seqs + 1,), ("q", q), contiguous=True)
    check(
        "batch.block_table", batch.block_table, torch.int32, (seqs, "max_blocks"), ("q", q), contiguous=True
    )
    num_blocks, block_size = key_cache.shape[:2]
    wrong = wrong_sequences(
        batch.cu_seqlens_q, batch.context_lens, batch.block_table, len(q), block_size, num_blocks
    )
    if not wrong:
        return
    max_blocks = batch.block_table.shape[1]
    expected = {
        "cu_seqlens_q": f"to rise from 0 to the {len(q)} tokens",
        "context_lens": f"0, or from its number of queries to the block table's {max_blocks * block_size}",
        "block_table": f"blocks from 0 to {num_blocks - 1} for the keys of each sequence",
    }[wrong]
    low, high = index_range(getattr(batch, wrong))
    raise ValueError(f"batch.{wrong}: expected {expected}, got numbers from {low} to {high}")


def check_caches_written(
    caches: Sequence[tuple[Tensor, Tensor]], layer_stride: int, others: Sequence[tuple[str, Tensor | None]]
) -> None:
    """Keys and values of layers that are `layer_stride` numbers apart: every number has a place of its own,
    outside the memory of the other tensors."""
    key, value = caches[0]
    distance = abs(value.data_ptr() - key.data_ptr()) // key.element_size()
    shape, strides = (*key.shape, 2, len(caches)), (*key.stride(), distance, abs(layer_stride))
    if has_overlap(shape, strides):
        raise ValueError(
            f"key_cache, value_cache: expected a place for each number, got strides {key.stride()} at a "
            f"distance of {distance} from keys to values"
        )
    for key, value in {id(pair): pair for pair in (caches[0], caches[-1])}.values():
        check_written("key_cache", key, others)
        check_written("value_cache", value, others)
