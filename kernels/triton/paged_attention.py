"""Attention over a paged cache: tiles of queries against tiles of keys, split over the context.

A tile has all query heads of one kv head, so that its keys are read once for all of them. Where there are too
few tiles to fill the device, several programs share the context of each (flash-decoding, Dao et al. 2023),
and a second kernel adds up what they found. The grids follow from shapes alone: no size is read back from
the device, and a captured CUDA graph serves any lengths.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.quantized_cache import Cache, QuantizedCache, numbers_of, scales_of

__all__ = ["choose_num_splits", "paged_attention"]

PROGRAMS = 512
"""Enough programs to fill an A100 or H100: two at a time on each of 132 multiprocessors, twice over."""
MAX_SPLITS = 64
MIN_SPLIT_KEYS = 128
ANY = 2**31 - 1


def paged_attention(
    q: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    batch: AttentionBatch,
    scale: float,
    *,
    num_splits: int | None = None,
) -> Tensor:
    tokens, num_heads, head_dim = q.shape
    out = q.new_empty(tokens, num_heads * head_dim)
    if not out.numel():
        return out
    q = q if q.stride(2) == 1 else q.contiguous()
    keys, values = numbers_of(key_cache), numbers_of(value_cache)
    key_scales, value_scales, scale_stride = None, None, 0
    if isinstance(key_cache, QuantizedCache):
        key_scales, value_scales = key_cache.scales, scales_of(value_cache)
        scale_stride = key_scales.stride(0)
    _, block_size, num_kv_heads, _ = keys.shape
    num_seqs, max_blocks = batch.block_table.shape
    group = num_heads // num_kv_heads
    padded_group = triton.next_power_of_2(group)
    block_dim = max(16, triton.next_power_of_2(head_dim))
    # In 16 bits, tiles are as large as a multiprocessor's shared memory allows (164 KiB on an A100), with the
    # queries and a few tiles of keys and values in flight. In float32, which tensor cores do not multiply,
    # they are as large as the registers allow. 16 is the smallest size that Triton multiplies.
    in_16_bits = q.element_size() == 2
    few = max(1, 16 // padded_group)
    many = max(few, (min(128, 16384 // block_dim) if in_16_bits else 32) // padded_group)
    block_keys = min(64, max(16, 8192 // block_dim)) if in_16_bits else 16
    if num_splits is None:
        tiles = max(min(num_seqs, tokens), triton.cdiv(tokens, many))
        num_splits = choose_num_splits(tiles * num_kv_heads, max_blocks * block_size)

    found, stats = None, None
    if num_splits > 1:
        found = q.new_empty(num_splits, tokens, num_heads, head_dim, dtype=torch.float32)
        stats = q.new_empty(num_splits, tokens, num_heads, 2, dtype=torch.float32)

    def attend(block_queries: int, tiles: int, least: int, most: int, *, tile_per_seq: bool) -> None:
        rows = block_queries * padded_group
        _attend_kernel[(tiles * num_kv_heads, num_splits)](
            q,
            keys,
            values,
            key_scales,
            value_scales,
            batch.cu_seqlens_q,
            batch.context_lens,
            batch.block_table,
            out,
            found,
            stats,
            tokens,
            num_seqs,
            num_kv_heads,
            max_blocks,
            q.stride(0),
            q.stride(1),
            keys.stride(0),
            keys.stride(1),
            scale_stride,
            scale * math.log2(math.e),
            least,
            most,
            GROUP=group,
            PADDED_GROUP=padded_group,
            HEAD_DIM=head_dim,
            BLOCK_DIM=block_dim,
            BLOCK_SIZE=block_size,
            BLOCK_QUERIES=block_queries,
            BLOCK_KEYS=block_keys,
            TILE_PER_SEQ=tile_per_seq,
            IN_16_BITS=in_16_bits and not triton.knobs.runtime.interpret,
            num_warps=8 if rows >= 64 else 4,
            # Where memory is the limit, two tiles of keys are in flight; the table is read a stage earlier.
            num_stages=5 if rows < 64 else 3,
        )

    if tokens <= few or (num_seqs > 1 and tokens <= num_seqs):  # decoding
        attend(few, _num_tiles(tokens, num_seqs, few), 1, ANY, tile_per_seq=False)
    else:
        if num_seqs > 1:  # some may be decoding: their tiles are small, or they would be mostly padding
            attend(few, num_seqs, 1, few, tile_per_seq=True)
        least = few + 1 if num_seqs > 1 else 1
        attend(many, _num_tiles(tokens, num_seqs, many), least, ANY, tile_per_seq=False)

    if found is not None:
        block = min(64, block_dim)
        _add_splits_kernel[(tokens * num_heads, triton.cdiv(head_dim, block))](
            found,
            stats,
            out,
            tokens * num_heads,
            num_splits,
            HEAD_DIM=head_dim,
            BLOCK=block,
            SPLITS=8 if num_splits <= 8 else MAX_SPLITS,  # two variants, not seven
        )
    return out


def choose_num_splits(num_programs: int, max_keys: int) -> int:
    """How many programs share a context, given that there are `num_programs` without sharing, and that the
    block table has room for contexts of up to `max_keys`."""
    wanted = -(-PROGRAMS // num_programs)
    return max(1, min(wanted, max_keys // MIN_SPLIT_KEYS, MAX_SPLITS))


def _num_tiles(tokens: int, num_seqs: int, block_queries: int) -> int:
    """The most tiles that `num_seqs` sequences with `tokens` queries in all can have, none of them shared:
    sum of ceil(n / block) = floor((n + block - 1) / block) <= floor(sum of (n + block - 1) / block)."""
    return (tokens + num_seqs * (block_queries - 1)) // block_queries


@triton.jit
def sequence_of(tile, cu_seqlens_q_ptr, num_seqs, BLOCK_QUERIES: tl.constexpr):
    """-> the sequence of a tile, and its place among the tiles of that sequence, which may be past the last
    query. Tiles are numbered such that sequence s begins at floor((cu[s] + s * (block - 1)) / block)."""
    CHUNK: tl.constexpr = 128
    begun = 0  # the number of sequences that begin at this tile or before
    begin = 0  # where the last of them begins
    for start in range(0, num_seqs, CHUNK):
        seq = start + tl.arange(0, CHUNK)
        before = tl.load(cu_seqlens_q_ptr + seq, mask=seq < num_seqs, other=0)
        begins = (before + seq * (BLOCK_QUERIES - 1)) // BLOCK_QUERIES
        has_begun = (seq < num_seqs) & (begins <= tile)
        begun += tl.sum(has_begun.to(tl.int32), axis=0)
        begin = tl.maximum(begin, tl.max(tl.where(has_begun, begins, 0), axis=0))
    return begun - 1, tile - begin


@triton.jit(
    do_not_specialize=[
        "key_scales_ptr",
        "value_scales_ptr",
        "stride_scales",
        "cu_seqlens_q_ptr",
        "context_lens_ptr",
        "block_table_ptr",
        "num_tokens",
        "num_seqs",
        "max_blocks",
        "least",
        "most",
    ]
)
def _attend_kernel(
    q_ptr,
    key_ptr,
    value_ptr,
    key_scales_ptr,
    value_scales_ptr,
    cu_seqlens_q_ptr,
    context_lens_ptr,
    block_table_ptr,
    out_ptr,
    found_ptr,
    stats_ptr,
    num_tokens,
    num_seqs,
    num_kv_heads,
    max_blocks,
    stride_q_token,
    stride_q_head,
    stride_block,
    stride_position,
    stride_scales,
    scale_log2,
    least,
    most,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    TILE_PER_SEQ: tl.constexpr,
    IN_16_BITS: tl.constexpr,
):
    """out[t, h] = sum over keys up to t's own of softmax(q[t, h] k^T * scale) v

    for the queries of one tile, the heads of one kv head, and one split of the keys that the tile sees.
    Sequences of fewer than `least` or more than `most` queries are left to another launch. With splits it
    stores the sum before the division (`found_ptr`), and the largest score and the divisor (`stats_ptr`).
    In an int8 cache, k and v are whole numbers, times the scales of their head and position.
    """
    # The last tiles of a prefill see the most keys, so they start first.
    tile = tl.num_programs(0) // num_kv_heads - 1 - tl.program_id(0) // num_kv_heads
    kv_head = tl.program_id(0) % num_kv_heads
    split, num_splits = tl.program_id(1), tl.num_programs(1)
    if TILE_PER_SEQ:
        seq, tile_of_seq = tile, 0
    else:
        seq, tile_of_seq = sequence_of(tile, cu_seqlens_q_ptr, num_seqs, BLOCK_QUERIES)
    start = tl.load(cu_seqlens_q_ptr + seq)
    num_queries = tl.load(cu_seqlens_q_ptr + seq + 1) - start
    first = tile_of_seq * BLOCK_QUERIES
    if (first >= num_queries) | (num_queries < least) | (num_queries > most):
        return

    row = tl.arange(0, BLOCK_QUERIES * PADDED_GROUP)
    query = first + row // PADDED_GROUP
    head = kv_head * GROUP + row % PADDED_GROUP
    exists = (query < num_queries) & (row % PADDED_GROUP < GROUP)
    d = tl.arange(0, BLOCK_DIM)
    token = (start + query).to(tl.int64)
    q_place = token[:, None] * stride_q_token + head[:, None] * stride_q_head + d[None, :]
    q = tl.load(q_ptr + q_place, mask=exists[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    if not IN_16_BITS:
        q = q.to(tl.float32)

    # |<-- before the queries -->|<-- queries -->|     positions of the sequence, context_len in all
    # |<---- keys of the tile ------->|                up to its last query's own, shared by the splits
    position = tl.load(context_lens_ptr + seq) - num_queries + query
    num_keys = tl.load(context_lens_ptr + seq) - num_queries + tl.minimum(first + BLOCK_QUERIES, num_queries)
    span = tl.cdiv(tl.cdiv(num_keys, num_splits), BLOCK_KEYS) * BLOCK_KEYS
    end = tl.minimum((split + 1) * span, num_keys)

    table_ptr = block_table_ptr + seq.to(tl.int64) * max_blocks
    largest = tl.full([BLOCK_QUERIES * PADDED_GROUP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES * PADDED_GROUP], tl.float32)
    mixed = tl.zeros([BLOCK_QUERIES * PADDED_GROUP, BLOCK_DIM], tl.float32)
    for begin in range(split * span, end, BLOCK_KEYS):
        key = begin + tl.arange(0, BLOCK_KEYS)
        block = tl.load(table_ptr + key // BLOCK_SIZE, mask=key < end, other=0).to(tl.int64)
        place = block * stride_block + key % BLOCK_SIZE * stride_position + kv_head * HEAD_DIM
        inside = (key < end)[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(key_ptr + place[:, None] + d[None, :], mask=inside, other=0.0)
        v = tl.load(value_ptr + place[:, None] + d[None, :], mask=inside, other=0.0)
        if key_scales_ptr is not None:
            scale_place = block * stride_scales + kv_head * BLOCK_SIZE + key % BLOCK_SIZE
            key_scale = tl.load(key_scales_ptr + scale_place, mask=key < end, other=0.0)
            value_scale = tl.load(value_scales_ptr + scale_place, mask=key < end, other=0.0)
            k = k.to(q.dtype)  # exact
            # not times the weights, which in float16 would become too small
            v = (v.to(tl.float32) * value_scale[:, None]).to(q.dtype)
        if IN_16_BITS:
            score = tl.dot(q, tl.trans(k))
        else:
            score = tl.dot(q, tl.trans(k.to(tl.float32)), input_precision="ieee")
        if key_scales_ptr is not None:
            score *= key_scale[None, :]
        seen = (key[None, :] <= position[:, None]) & (key < end)[None, :]
        score = tl.where(seen, score * scale_log2, float("-inf"))
        above = tl.maximum(largest, tl.max(score, axis=1))
        known = tl.where(above == float("-inf"), 0.0, above)  # a row that has seen no key yet
        weight = tl.exp2(score - known[:, None])
        faded = tl.exp2(largest - known)
        total = total * faded + tl.sum(weight, axis=1)
        weight = weight.to(v.dtype)  # in 16 bits as PyTorch's attention does: what tensor cores multiply
        if IN_16_BITS:
            mixed = tl.dot(weight, v, mixed * faded[:, None])
        else:
            mixed = mixed * faded[:, None] + tl.dot(
                weight.to(tl.float32), v.to(tl.float32), input_precision="ieee"
            )
        largest = above

    num_heads = num_kv_heads * GROUP
    if found_ptr is None:
        mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]  # a row without keys, which pads, is zeros
        out_place = (token * num_heads + head)[:, None] * HEAD_DIM + d[None, :]
        mask = exists[:, None] & (d < HEAD_DIM)[None, :]
        tl.store(out_ptr + out_place, mixed.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        found_row = (split.to(tl.int64) * num_tokens + token) * num_heads + head
        # A row that saw no key of this split has a divisor of 0, and nothing else of it is read.
        mask = (exists & (total > 0))[:, None] & (d < HEAD_DIM)[None, :]
        tl.store(found_ptr + found_row[:, None] * HEAD_DIM + d[None, :], mixed, mask=mask)
        tl.store(stats_ptr + found_row * 2, largest, mask=exists)
        tl.store(stats_ptr + found_row * 2 + 1, total, mask=exists)


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _add_splits_kernel(
    found_ptr,
    stats_ptr,
    out_ptr,
    num_rows,
    num_splits,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """out[row] = sum of 2^(largest[s] - largest) found[s, row] / sum of 2^(largest[s] - largest) total[s]"""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    found_row = split.to(tl.int64) * num_rows + row
    total = tl.load(stats_ptr + found_row * 2 + 1, mask=split < num_splits, other=0.0)
    largest = tl.load(stats_ptr + found_row * 2, mask=total > 0, other=float("-inf"))
    above = tl.max(largest, axis=0)
    weight = tl.exp2(largest - tl.where(above > float("-inf"), above, 0.0))
    mask = (total > 0)[:, None] & (d < HEAD_DIM)[None, :]
    found = tl.load(found_ptr + found_row[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)
    whole = tl.sum(total * weight, axis=0)
    out = tl.sum(found * weight[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)  # without keys: zeros
    tl.store(out_ptr + row * HEAD_DIM + d, out.to(out_ptr.dtype.element_ty), mask=d < HEAD_DIM)
