"""A ragged batch over a paged cache: where its tokens stand, and the checks that it fits together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

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
    stretch,
    wrong_sequences,
)
from antiphon.kernels.quantized_cache import (
    Cache,
    Caches,
    QuantizedCache,
    layer_strides,
    numbers_of,
    scales_of,
)

__all__ = [
    "AttentionBatch",
    "AttentionPlanner",
    "BatchSequences",
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
    backend: str | None = None
    """That of `paged_attention` which the batch was made ready for; None: the first that fits"""
    plan: object | None = None
    """What that backend has to know of the batch beforehand, see `AttentionPlanner`"""

    @property
    def num_seqs(self) -> int:
        return self.context_lens.shape[0]


@dataclass(frozen=True)
class BatchSequences:
    """What the host knows of a batch's sequences, of which each has an item in each list."""

    lengths: Sequence[int]
    """Numbers of queries"""
    ends: Sequence[int]
    """Numbers of keys, this batch's included"""
    block_tables: Sequence[Sequence[int]]
    """Each has the blocks of all keys, and maybe more"""
    block_size: int


class AttentionPlanner(Protocol):
    """Makes batches ready for a library that computes `paged_attention`."""

    @property
    def recorded_backend(self) -> str | None:
        """The backend of steps of one query each that are recorded, without a plan; None: ours"""
        ...

    def prepared(self, batch: AttentionBatch, sequences: BatchSequences) -> AttentionBatch:
        """The batch, with its backend and plan"""
        ...

    def warm_up(self, key_cache: Cache, value_cache: Cache) -> None:
        """Compile what is compiled at the first call; the cache is one of those that will be read."""


def check_batch(batch: object) -> None:
    if not isinstance(batch, AttentionBatch):
        raise ValueError(f"batch: expected an AttentionBatch, got {type(batch).__name__}")


def check_cache(key_cache: Cache, value_cache: Cache, like: Tensor) -> None:
    """A layer's keys and values, which share one shape and one set of strides."""
    if isinstance(key_cache, QuantizedCache) or isinstance(value_cache, QuantizedCache):
        _check_quantized_cache(key_cache, value_cache, like)
    else:
        _check_numbers(key_cache, value_cache, like, like.dtype)


def _check_quantized_cache(key_cache: Cache, value_cache: Cache, like: Tensor) -> None:
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        if not isinstance(cache, QuantizedCache):
            other = "value_cache" if name == "key_cache" else "key_cache"
            raise ValueError(f"{name}: expected a QuantizedCache like {other}, got {type(cache).__name__}")
    assert isinstance(key_cache, QuantizedCache) and isinstance(value_cache, QuantizedCache)
    _check_numbers(key_cache.values, value_cache.values, like, torch.int8)
    num_blocks, block_size, num_kv_heads, _ = key_cache.values.shape
    shape = (num_blocks, num_kv_heads, block_size)
    for name, cache in (("key_cache.scales", key_cache.scales), ("value_cache.scales", value_cache.scales)):
        check(name, cache, torch.float32, shape, ("the queries", like))
        head, position = cache.stride()[1:]
        if (num_kv_heads > 1 and head != block_size) or (block_size > 1 and position != 1):
            raise ValueError(f"{name}: expected blocks to be contiguous, got strides {cache.stride()}")
    if key_cache.scales.stride(0) != value_cache.scales.stride(0):
        raise ValueError(
            f"value_cache.scales: expected strides {key_cache.scales.stride()} like key_cache.scales, "
            f"got {value_cache.scales.stride()}"
        )


def _check_numbers(key_cache: Tensor, value_cache: Tensor, like: Tensor, dtype: torch.dtype) -> None:
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
        if cache.dtype != dtype:
            like_queries = " like the queries" if dtype == like.dtype else ""
            raise ValueError(f"{name}: expected {dtype}{like_queries}, got {cache.dtype}")
        check_device(name, cache, "the queries", like)
    (num_kv_heads, head_dim), (head, number) = key_cache.shape[2:], key_cache.stride()[2:]
    if number != 1 or (num_kv_heads > 1 and head != head_dim) or key_cache.shape[1] > INT32_MAX:
        raise ValueError(f"key_cache: expected positions to be contiguous, got strides {key_cache.stride()}")


def check_slots(batch: AttentionBatch, like: Tensor, key_cache: Cache) -> None:
    """Each token is written to a slot of its own, or nowhere (-1)."""
    slots, (num_blocks, block_size) = batch.slot_mapping, numbers_of(key_cache).shape[:2]
    check("batch.slot_mapping", slots, torch.int64, batch.positions.shape, ("qkv", like), contiguous=True)
    check_range("batch.slot_mapping", slots, -1, num_blocks * block_size - 1)
    check_each_once("batch.slot_mapping", slots)


def check_sequences(batch: AttentionBatch, q: Tensor, key_cache: Cache) -> None:
    """Which rows of q (tokens, ...) belong to which sequence, and where that sequence's keys are."""
    check("batch.context_lens", batch.context_lens, torch.int32, ("seqs",), ("q", q), contiguous=True)
    seqs = len(batch.context_lens)
    check("batch.cu_seqlens_q", batch.cu_seqlens_q, torch.int32, (seqs + 1,), ("q", q), contiguous=True)
    check(
        "batch.block_table", batch.block_table, torch.int32, (seqs, "max_blocks"), ("q", q), contiguous=True
    )
    num_blocks, block_size = numbers_of(key_cache).shape[:2]
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


def check_caches_written(caches: Sequence[Caches], others: Sequence[tuple[str, Tensor | None]]) -> None:
    """Keys and values of layers at equal distances: every number has a place of its own, outside the memory
    of the other tensors."""
    layer_stride, scale_stride = layer_strides(caches)
    numbers = [(numbers_of(keys), numbers_of(values)) for keys, values in caches]
    _check_places(numbers, layer_stride, others)
    if isinstance(caches[0][0], QuantizedCache):
        scales = [(scales_of(keys), scales_of(values)) for keys, values in caches]
        _check_places(scales, scale_stride, others, ".scales")
        if numbers[0][0].numel() and not _are_apart(numbers, scales):
            raise ValueError("key_cache, value_cache: expected memory of their own, got some of their scales")


def _check_places(
    caches: Sequence[tuple[Tensor, Tensor]],
    layer_stride: int,
    others: Sequence[tuple[str, Tensor | None]],
    kind: str = "",
) -> None:
    key, value = caches[0]
    distance = abs(value.data_ptr() - key.data_ptr()) // key.element_size()
    shape, strides = (*key.shape, 2, len(caches)), (*key.stride(), distance, abs(layer_stride))
    if has_overlap(shape, strides):
        raise ValueError(
            f"key_cache{kind}, value_cache{kind}: expected a place for each number, got strides "
            f"{key.stride()} at a distance of {distance} from keys to values"
        )
    for key, value in {id(pair): pair for pair in (caches[0], caches[-1])}.values():
        check_written(f"key_cache{kind}", key, others)
        check_written(f"value_cache{kind}", value, others)


def _are_apart(numbers: Sequence[tuple[Tensor, Tensor]], scales: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether the layers' numbers share no memory with their scales: no stretch of theirs does, or in each of
    their equal blocks, one after the other, there is one stretch of numbers and another of scales."""
    for i, j in product((0, 1), (0, 1)):
        some, others = ([pairs[0][part], pairs[-1][part]] for pairs, part in ((numbers, i), (scales, j)))
        (begin, end), (other_begin, other_end) = _union(some), _union(others)
        if end <= other_begin or other_end <= begin:
            continue
        step, other_step = (tensors[0].stride(0) * tensors[0].element_size() for tensors in (some, others))
        begin, end = _union([tensor[0] for tensor in some])
        other_begin, other_end = _union([tensor[0] for tensor in others])
        offset = (other_begin - begin) % step if step else 0
        fits = end - begin <= offset and offset + other_end - other_begin <= step
        if step != other_step or not fits:
            return False
    return True


def _union(tensors: Sequence[Tensor]) -> tuple[int, int]:
    begins, ends = zip(*map(stretch, tensors), strict=True)
    return min(begins), max(ends)
