"""The likeliest ids of a head in two passes: each program reduces a part of the vocabulary, then one program
per row reduces the parts.

The weight is read once, by thousands of programs (its 1.05 GB in 16 bits take 0.31 ms on an H100). Between
the passes go 8 bytes per candidate, with at most 16 thousand candidates per row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.head import (
    INTERPRETED,
    LEAST_KEY,
    key_logit,
    key_position,
    sort_key,
    tile_logits,
)

__all__ = ["argmax_head", "tile_shape"]

MAX_CANDIDATES = 16384  # per row: the second pass keeps them in registers


def argmax_head(hidden: Tensor, weight: Tensor, top_k: int, subset: Tensor | None) -> tuple[Tensor, Tensor]:
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    rows, size = hidden.shape
    ids = torch.empty(rows, top_k, dtype=torch.int64, device=hidden.device)
    logits = torch.empty(rows, top_k, dtype=torch.float32, device=hidden.device)
    if not rows:
        return ids, logits
    if subset is not None:
        subset = subset.sort().values  # positions then compare like ids
    competing = len(weight) if subset is None else len(subset)
    block_m, block_n, block_k = tile_shape(rows, hidden.element_size())
    tiles = triton.cdiv(competing, block_n)
    tiles_per_part = triton.cdiv(tiles * top_k, MAX_CANDIDATES)
    parts = triton.cdiv(tiles, tiles_per_part)
    keys = torch.empty(rows, parts, top_k, dtype=torch.int64, device=hidden.device)
    # Programs that read the same weights run side by side, so that these come from memory once.
    _best_of_part_kernel[(triton.cdiv(rows, block_m), parts)](
        hidden,
        weight,
        subset,
        keys,
        rows,
        size,
        competing,
        hidden.stride(0),
        weight.stride(0),
        tiles_per_part,
        TOP_K=top_k,
        PADDED_TOP_K=triton.next_power_of_2(top_k),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        EVEN_K=size % block_k == 0,
        INTERPRETED=INTERPRETED,
        num_warps=4,
        num_stages=4 if hidden.element_size() == 2 else 3,
    )
    candidates = triton.next_power_of_2(parts * top_k)
    _best_of_row_kernel[(rows,)](
        keys,
        subset,
        ids,
        logits,
        parts * top_k,
        TOP_K=top_k,
        BLOCK=candidates,
        num_warps=16 if candidates > 4096 else 4,
    )
    return ids, logits


def tile_shape(rows: int, element_size: int) -> tuple[int, int, int]:
    """(rows, ids, features) of a tile.

    Enough bytes are in flight to cover the memory's latency: 25 KiB per multiprocessor at 3.35 TB/s. One row
    has 16 KiB in each of three or four programs, more rows 8 or 16 KiB in each stage of the pipeline; a
    stage's rows leave room for two programs in an A100's 164 KiB.
    """
    if rows == 1:
        return 1, 16, 1024 // element_size
    if rows <= 32:
        return max(triton.next_power_of_2(rows), 16), 64, 256 // element_size
    return 64, 64, 128 // element_size


@triton.jit
def _best_of_part_kernel(
    hidden_ptr,
    weight_ptr,
    subset_ptr,
    key_ptr,
    rows,
    size,
    competing,
    stride_hidden_row,
    stride_weight_row,
    tiles_per_part,
    TOP_K: tl.constexpr,
    PADDED_TOP_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """key[row, part] = the TOP_K largest keys of hidden[row] weight^T over the part's ids, descending"""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    rank = tl.arange(0, PADDED_TOP_K)[None, :]
    best = tl.full([BLOCK_M, PADDED_TOP_K], LEAST_KEY, dtype=tl.int64)
    for tile in range(part * tiles_per_part, (part + 1) * tiles_per_part):
        position = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        # Instead of a mask, positions outside read the last one inside and are dropped afterwards.
        weight_row = tl.minimum(position, competing - 1).to(tl.int64)
        if subset_ptr is not None:
            weight_row = tl.load(subset_ptr + weight_row)
        logits = tile_logits(
            hidden_ptr,
            weight_ptr,
            tl.minimum(row, rows - 1).to(tl.int64),
            weight_row,
            size,
            stride_hidden_row,
            stride_weight_row,
            BLOCK_K,
            EVEN_K,
            BLOCK_M == 1,
            INTERPRETED,
        )
        keys = tl.where(position[None, :] < competing, sort_key(logits, position[None, :]), LEAST_KEY)
        if TOP_K == 1:
            best = tl.maximum(best, tl.max(keys, 1)[:, None])
        else:  # no two keys are equal, so the one that was taken is found again by its value
            old = best
            for i in range(TOP_K):
                largest = tl.maximum(tl.max(keys, 1), tl.max(old, 1))[:, None]
                best = tl.where(rank == i, largest, best)
                keys = tl.where(keys == largest, LEAST_KEY, keys)
                old = tl.where(old == largest, LEAST_KEY, old)
    at = (row.to(tl.int64)[:, None] * tl.num_programs(1) + part) * TOP_K + rank
    tl.store(key_ptr + at, best, mask=(row[:, None] < rows) & (rank < TOP_K))


@triton.jit
def _best_of_row_kernel(
    key_ptr, subset_ptr, id_ptr, logit_ptr, count, TOP_K: tl.constexpr, BLOCK: tl.constexpr
):
    """id[row], logit[row]: those of the TOP_K largest of `count` keys, descending"""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    keys = tl.load(key_ptr + row * count + i, mask=i < count, other=LEAST_KEY)
    for rank in range(TOP_K):
        largest = tl.max(keys, 0)
        position = key_position(largest)
        if subset_ptr is not None:
            position = tl.load(subset_ptr + position)
        tl.store(id_ptr + row * TOP_K + rank, position)
        tl.store(logit_ptr + row * TOP_K + rank, key_logit(largest))
        keys = tl.where(keys == largest, LEAST_KEY, keys)
