"""The likeliest ids of a head: each program reduces a tile of the vocabulary, then one per row reduces the
tiles.

The weight is read once, by thousands of programs (its 1.05 GB in 16 bits take 0.31 ms on an H100, in int8
half of both). Of one id per row, 8 bytes per tile go between the passes.

Of more ids, the logits are stored beside that: 4 bytes for the 8,192 that an id's weights take. A group of
256 ids that holds one of the `top_k` likeliest is among the `top_k` groups with the largest maxima, and an id
below the least of these maxima is not among the likeliest. That leaves little more than `top_k` candidates,
unless the likeliest ids are neighbours. Groups, then candidates are put in order by counting how many are
greater: no two keys are equal, so each has a place of its own, and no program waits for another.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.triton.head import (
    INTERPRETED,
    LEAST_KEY,
    key_logit,
    key_position,
    sort_key,
    tile_logits,
)
from antiphon.kernels.triton.int8_rows import Operands, operands

__all__ = ["argmax_head", "tile_shape"]

MAX_PARTS = 16384  # per row: the second pass keeps them in registers
GROUP = 256
ORDERING = {"OWN": 16, "CHUNK": 256, "num_warps": 4}
ORDERING_PROGRAMS = 16  # for the candidates of a row, of which there are few


def argmax_head(
    hidden: Tensor, weight: Tensor | QuantizedWeight, top_k: int, subset: Tensor | None
) -> tuple[Tensor, Tensor]:
    product = operands(hidden, weight)
    subset = subset.contiguous() if subset is not None else None
    rows, size = hidden.shape
    ids = torch.empty(rows, top_k, dtype=torch.int64, device=hidden.device)
    logits = torch.empty(rows, top_k, dtype=torch.float32, device=hidden.device)
    if not rows:
        return ids, logits
    competing = len(product.weight) if subset is None else len(subset)
    block_m, block_n, block_k = tile_shape(rows, product)
    tiles = triton.cdiv(competing, block_n)
    tiles_per_part = triton.cdiv(tiles, MAX_PARTS) if top_k == 1 else 1
    parts = triton.cdiv(tiles, tiles_per_part)
    keys = torch.empty(rows, parts, dtype=torch.int64, device=hidden.device)
    groups = triton.cdiv(competing, GROUP)
    all_logits = None if top_k == 1 else logits.new_empty(rows, groups * GROUP)
    # Programs that read the same weights run side by side, so that these come from memory once.
    _best_of_part_kernel[(triton.cdiv(rows, block_m), parts)](
        product.rows,
        product.weight,
        product.scales,
        product.about,
        subset,
        keys,
        all_logits,
        rows,
        size,
        competing,
        product.rows.stride(0),
        product.weight.stride(0),
        tiles_per_part,
        groups * GROUP,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        EVEN_K=size % block_k == 0,
        INTERPRETED=INTERPRETED,
        num_warps=4,
        num_stages=3 if product.weight.element_size() == 4 else 4,
    )
    if all_logits is None:
        block = triton.next_power_of_2(parts)
        _best_of_row_kernel[(rows,)](
            keys, ids, logits, parts, BLOCK=block, num_warps=16 if block > 4096 else 4
        )
        return ids, logits

    chosen = min(top_k, groups)
    best_groups = torch.empty(rows, chosen, dtype=torch.int32, device=hidden.device)
    least = torch.empty(rows, dtype=torch.int64, device=hidden.device)
    counts = torch.empty(rows, dtype=torch.int32, device=hidden.device)
    candidates = torch.empty(rows, chosen * GROUP, dtype=torch.int64, device=hidden.device)
    _best_groups_kernel[(triton.cdiv(groups, ORDERING["OWN"]), rows)](
        keys, best_groups, least, counts, tiles, groups, chosen, top_k, TILES=GROUP // block_n, **ORDERING
    )
    _candidates_kernel[(chosen, rows)](
        all_logits,
        subset,
        best_groups,
        least,
        counts,
        candidates,
        competing,
        groups * GROUP,
        GROUP=GROUP,
        num_warps=2,
    )
    _order_kernel[(ORDERING_PROGRAMS, rows)](
        candidates, counts, ids, logits, chosen * GROUP, top_k, **ORDERING
    )
    return ids, logits


def tile_shape(rows: int, product: Operands) -> tuple[int, int, int]:
    """(rows, ids, features) of a tile.

    Enough bytes are in flight to cover the memory's latency: 25 KiB per multiprocessor at 3.35 TB/s. One row
    has 16 KiB in each of three or four programs (8 KiB of int8, whose sums take as many registers), more rows
    8 or 16 KiB in each stage of the pipeline; a stage's rows leave room for two programs in an A100's 164
    KiB. A single row in int8 is multiplied as many are, by tensor cores: so its sums need no instructions.
    """
    weight_bytes, row_bytes = product.weight.element_size(), product.rows.element_size()
    if rows == 1 and product.about is None:
        return 1, 16, 512 if weight_bytes == 1 else 1024 // weight_bytes
    # Features that are widened take as many registers and as much memory as those that come so.
    width = max(weight_bytes, row_bytes)
    if rows <= 32:
        return max(triton.next_power_of_2(rows), 16), 64, 256 // width
    return 64, 64, 128 // width


@triton.jit(do_not_specialize=["rows", "competing", "tiles_per_part", "logits_per_row"])
def _best_of_part_kernel(
    hidden_ptr,
    weight_ptr,
    scale_ptr,
    about_ptr,
    subset_ptr,
    key_ptr,
    logit_ptr,
    rows,
    size,
    competing,
    stride_hidden_row,
    stride_weight_row,
    tiles_per_part,
    logits_per_row,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """key[row, part] = the largest key of hidden[row] weight^T over the part's ids; logit, where it is
    wanted"""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    best = tl.full([BLOCK_M], LEAST_KEY, dtype=tl.int64)
    for tile in range(part * tiles_per_part, (part + 1) * tiles_per_part):
        position = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        # Instead of a mask, positions outside read the last one inside and are dropped afterwards.
        weight_row = tl.minimum(position, competing - 1).to(tl.int64)
        if subset_ptr is not None:
            weight_row = tl.load(subset_ptr + weight_row)
        logits = tile_logits(
            hidden_ptr,
            weight_ptr,
            scale_ptr,
            about_ptr,
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
        inside = position[None, :] < competing
        keys = tl.where(inside, sort_key(logits, weight_row.to(tl.int32)[None, :]), LEAST_KEY)
        best = tl.maximum(best, tl.max(keys, 1))
        if logit_ptr is not None:
            to = logit_ptr + row.to(tl.int64)[:, None] * logits_per_row + position[None, :]
            tl.store(to, logits, mask=inside & (row[:, None] < rows))
    tl.store(key_ptr + row.to(tl.int64) * tl.num_programs(1) + part, best, mask=row < rows)


@triton.jit(do_not_specialize=["count"])
def _best_of_row_kernel(key_ptr, id_ptr, logit_ptr, count, BLOCK: tl.constexpr):
    """id[row], logit[row]: those of the largest of `count` keys"""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    largest = tl.max(tl.load(key_ptr + row * count + i, mask=i < count, other=LEAST_KEY), 0)
    tl.store(id_ptr + row, key_position(largest))
    tl.store(logit_ptr + row, key_logit(largest))


@triton.jit
def _group_keys(key_ptr, group, tiles, TILES: tl.constexpr):
    """The largest key of each group of TILES tiles; LEAST_KEY past the last tile."""
    tile = group[:, None] * TILES + tl.arange(0, TILES)[None, :]
    return tl.max(tl.load(key_ptr + tile, mask=tile < tiles, other=LEAST_KEY), 1)


@triton.jit(do_not_specialize=["tiles", "groups", "chosen", "top_k"])
def _best_groups_kernel(
    key_ptr,
    group_ptr,
    least_ptr,
    count_ptr,
    tiles,
    groups,
    chosen,
    top_k,
    TILES: tl.constexpr,
    OWN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """group[row] = the `chosen` groups with the largest keys, in order; least[row] = the top_k-th largest of
    the groups' keys, or what is below all where there are fewer; count[row] = 0"""
    row = tl.program_id(1).to(tl.int64)
    own = tl.program_id(0) * OWN + tl.arange(0, OWN)
    key_ptr += row * tiles
    keys = _group_keys(key_ptr, own, tiles, TILES)
    greater = tl.zeros([OWN, CHUNK], dtype=tl.int32)
    for first in range(0, groups, CHUNK):
        others = _group_keys(key_ptr, first + tl.arange(0, CHUNK), tiles, TILES)
        greater += (others[None, :] > keys[:, None]).to(tl.int32)
    rank = tl.sum(greater, 1)
    exists = own < groups
    tl.store(group_ptr + row * chosen + rank, own, mask=exists & (rank < chosen))
    bound = tl.where(chosen == top_k, keys, LEAST_KEY)
    tl.store(least_ptr + row + own * 0, bound, mask=exists & (rank == chosen - 1))
    if tl.program_id(0) == 0:
        tl.store(count_ptr + row, 0)


@triton.jit(do_not_specialize=["competing", "logits_per_row"])
def _candidates_kernel(
    logit_ptr,
    subset_ptr,
    group_ptr,
    least_ptr,
    count_ptr,
    candidate_ptr,
    competing,
    logits_per_row,
    GROUP: tl.constexpr,
):
    """candidate[row] = the keys of one of the row's groups that are not below least[row], anywhere from
    count[row] on; count[row] is their number"""
    row, chosen = tl.program_id(1).to(tl.int64), tl.num_programs(0)
    group = tl.load(group_ptr + row * chosen + tl.program_id(0))
    position = group * GROUP + tl.arange(0, GROUP)
    inside = position < competing
    logits = tl.load(logit_ptr + row * logits_per_row + position, mask=inside, other=float("-inf"))
    ids = position
    if subset_ptr is not None:
        ids = tl.load(subset_ptr + position, mask=inside, other=0).to(tl.int32)
    keys = sort_key(logits, ids)
    kept = (inside & (keys >= tl.load(least_ptr + row))).to(tl.int32)
    # Programs may come in any order: it is the keys that are put in order afterwards.
    first = tl.atomic_add(count_ptr + row, tl.sum(kept, 0))
    place = first + tl.cumsum(kept, 0) - 1
    tl.store(candidate_ptr + row * chosen * GROUP + place, keys, mask=kept > 0)


@triton.jit(do_not_specialize=["candidates_per_row", "top_k"])
def _order_kernel(
    candidate_ptr,
    count_ptr,
    id_ptr,
    logit_ptr,
    candidates_per_row,
    top_k,
    OWN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """id[row], logit[row]: those of the top_k largest of the row's candidates, descending"""
    row = tl.program_id(1).to(tl.int64)
    count = tl.load(count_ptr + row)
    candidate_ptr += row * candidates_per_row
    for begin in range(tl.program_id(0) * OWN, count, tl.num_programs(0) * OWN):
        own = begin + tl.arange(0, OWN)
        keys = tl.load(candidate_ptr + own, mask=own < count, other=LEAST_KEY)
        greater = tl.zeros([OWN, CHUNK], dtype=tl.int32)
        for first in range(0, count, CHUNK):
            other = first + tl.arange(0, CHUNK)
            others = tl.load(candidate_ptr + other, mask=other < count, other=LEAST_KEY)
            greater += (others[None, :] > keys[:, None]).to(tl.int32)
        rank = tl.sum(greater, 1)
        kept = (own < count) & (rank < top_k)
        tl.store(id_ptr + row * top_k + rank, key_position(keys), mask=kept)
        tl.store(logit_ptr + row * top_k + rank, key_logit(keys), mask=kept)
