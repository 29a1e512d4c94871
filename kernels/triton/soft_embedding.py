"""softmax(H W^T) E; W and E are read once.

Of few rows in four passes of our own. A program's accumulator cannot be both as wide as the embedding (4096)
and as high as the batch, so the second product is cut into slices of columns, and each slice needs the
probabilities of all ids. Computing the logits again for each of 16 to 32 slices would multiply the reads of
W, so they are written out, as weights exp(logit - m) in E's dtype, with m the maximum over a tile of ids. In
16 bits, for 32 rows and 128,256 ids, that is 8.2 MB each way beside 2.1 GB of W and E: 0.8 %. The slices of
one part of the ids run side by side and find the weights in the L2 cache.

    1. each tile of ids: weights, their maximum, their sum, the key of the likeliest id
    2. each row: the factors that bring each tile's weights to the common maximum and sum; the label
    3. each part of the ids and slice of columns: partial sums of E
    4. the sum of the parts

Of more rows the products are the vendor's, whose tiles are fed better than Triton's: 256 rows are 0.54 TFLOP,
a millisecond for tensor cores at two thirds of their rate, beside which half a millisecond of reading counts
less. The logits between them are float32, 131 MB for 256 rows; two kernels make probabilities and labels of
them. Where W or E is int8, which the vendor's products do not read, it is our four passes for any rows.

A table in int8 has a scale for each id. It goes with the id's weights, which are rounded once: as a share of
the largest scale of its tile, so that float16 keeps what is small. The third pass multiplies by that one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.triton.head import INTERPRETED, LEAST_KEY, key_position, sort_key, tile_logits
from antiphon.kernels.triton.int8_rows import operands

__all__ = ["soft_embedding"]

FEW_ROWS = 32
TILE = 64  # ids that share a maximum
WANTED_PROGRAMS = 512  # of the third pass: two or three on each of 108 to 132 multiprocessors, twice over
BLOCK = 1024
PART = 8192  # ids of a row that a program turns into probabilities


def soft_embedding(
    hidden: Tensor, weight: Tensor | QuantizedWeight, embedding: Tensor | QuantizedWeight
) -> tuple[Tensor, Tensor]:
    if len(hidden) > FEW_ROWS and isinstance(weight, Tensor) and isinstance(embedding, Tensor):
        return _by_products(hidden, weight, embedding)
    return _by_tiles(hidden, weight, embedding)


def _by_products(hidden: Tensor, weight: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
    rows, vocab = len(hidden), len(weight)
    if hidden.is_cuda and hidden.element_size() == 2:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.T.float()
    parts = triton.cdiv(vocab, PART)
    statistics = logits.new_empty(rows, parts, 2)
    keys = logits.new_empty(rows, parts, dtype=torch.int64)
    probabilities = hidden.new_empty(rows, vocab)
    labels = hidden.new_empty(rows, dtype=torch.int64)
    _statistics_kernel[(parts, rows)](logits, statistics, keys, vocab, BLOCK=PART, num_warps=8)
    _probabilities_kernel[(parts, rows)](
        logits,
        statistics,
        keys,
        probabilities,
        labels,
        vocab,
        BLOCK=PART,
        PARTS=triton.next_power_of_2(parts),
        num_warps=8,
    )
    return torch.mm(probabilities, embedding), labels


def _by_tiles(
    hidden: Tensor, weight: Tensor | QuantizedWeight, embedding: Tensor | QuantizedWeight
) -> tuple[Tensor, Tensor]:
    (rows, size), product = hidden.shape, operands(hidden, weight)
    table, scales = embedding, None
    if isinstance(embedding, QuantizedWeight):
        table, scales = embedding.values, embedding.scales.contiguous()
    assert isinstance(table, Tensor)
    table = table if table.stride(1) == 1 else table.contiguous()
    vocab = len(product.weight)
    out = hidden.new_empty(rows, size)
    labels = hidden.new_empty(rows, dtype=torch.int64)
    if not rows:
        return out, labels
    is_half = hidden.element_size() == 2
    block_m = min(max(triton.next_power_of_2(rows), 16), 64)
    width = max(product.rows.element_size(), product.weight.element_size())
    block_k = (256 if block_m <= 32 else 128) // width
    row_blocks, tiles = triton.cdiv(rows, block_m), triton.cdiv(vocab, TILE)
    weights = hidden.new_empty(rows, tiles * TILE)
    maxima, sums, factors = hidden.new_empty(3, rows, tiles, dtype=torch.float32)
    keys = hidden.new_empty(rows, tiles, dtype=torch.int64)
    _weights_kernel[(row_blocks, tiles)](
        product.rows,
        product.weight,
        product.scales,
        product.about,
        scales,
        weights,
        maxima,
        sums,
        keys,
        rows,
        size,
        vocab,
        product.rows.stride(0),
        product.weight.stride(0),
        BLOCK_M=block_m,
        BLOCK_N=TILE,
        BLOCK_K=block_k,
        EVEN_K=size % block_k == 0,
        INTERPRETED=INTERPRETED,
        num_warps=4,
        num_stages=4 if is_half else 3,
    )
    _factors_kernel[(rows,)](
        maxima, sums, keys, factors, labels, tiles, BLOCK=triton.next_power_of_2(tiles), num_warps=8
    )

    # Up to 128 rows in one program: E passes through the multiprocessors once.
    block_m = min(max(triton.next_power_of_2(rows), 16), 128)
    block_n = 256 if block_m <= 32 and is_half else 128
    row_blocks, slices = triton.cdiv(rows, block_m), triton.cdiv(size, block_n)
    tiles_per_part = triton.cdiv(tiles, max(1, WANTED_PROGRAMS // (row_blocks * slices)))
    parts = triton.cdiv(tiles, tiles_per_part)
    partial = hidden.new_empty(parts, rows, size, dtype=torch.float32)
    _mix_kernel[(row_blocks * slices, parts)](
        weights,
        factors,
        table,
        scales,
        partial,
        rows,
        size,
        vocab,
        tiles,
        table.stride(0),
        tiles_per_part,
        slices,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        TILE=TILE,
        EVEN_N=size % block_n == 0,
        INTERPRETED=INTERPRETED,
        num_warps=8 if block_m == 128 else 4,
        num_stages=3 if is_half else 2,
    )
    _sum_kernel[(triton.cdiv(size, BLOCK), rows)](partial, out, size, parts, BLOCK=BLOCK)
    return out, labels


@triton.jit
def _largest_scale(scales):
    """That of a tile; 1 if all are 0"""
    largest = tl.max(scales, 0)
    return tl.where(largest > 0.0, largest, 1.0)


@triton.jit(do_not_specialize=["rows", "vocab"])
def _weights_kernel(
    hidden_ptr,
    weight_ptr,
    scale_ptr,
    about_ptr,
    table_scale_ptr,
    out_ptr,
    max_ptr,
    sum_ptr,
    key_ptr,
    rows,
    size,
    vocab,
    stride_hidden_row,
    stride_weight_row,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """For each row, over one tile of ids: max = max(logits), out = exp(logits - max), sum(out), and the key
    of the likeliest. Past the vocabulary, out is 0. With a table's scales, out is multiplied by the id's
    share of the largest in the tile."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tile = tl.program_id(1)
    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    logits = tile_logits(
        hidden_ptr,
        weight_ptr,
        scale_ptr,
        about_ptr,
        tl.minimum(row, rows - 1).to(tl.int64),
        tl.minimum(token, vocab - 1).to(tl.int64),
        size,
        stride_hidden_row,
        stride_weight_row,
        BLOCK_K,
        EVEN_K,
        False,
        INTERPRETED,
    )
    inside = token[None, :] < vocab
    keys = tl.where(inside, sort_key(logits, token[None, :]), LEAST_KEY)
    logits = tl.where(inside, logits, float("-inf"))
    largest = tl.max(logits, 1)
    # A tile of nothing but minus infinity weighs 0, where the difference of two infinities would be NaN.
    base = tl.where(largest == float("-inf"), 0.0, largest)
    weights = tl.exp(logits - base[:, None])

    row = row.to(tl.int64)
    at = row * tl.num_programs(1) + tile
    tl.store(max_ptr + at, largest, mask=row < rows)
    tl.store(sum_ptr + at, tl.sum(weights, 1), mask=row < rows)
    tl.store(key_ptr + at, tl.max(keys, 1), mask=row < rows)
    if table_scale_ptr is not None:
        scales = tl.load(table_scale_ptr + token, mask=token < vocab, other=0.0)
        weights *= (scales / _largest_scale(scales))[None, :]
    out_ptr += row[:, None] * (tl.num_programs(1) * BLOCK_N) + token[None, :]
    # Rounded here, once, as the reference rounds its probabilities; factors and sums stay in float32.
    tl.store(out_ptr, weights.to(out_ptr.dtype.element_ty), mask=row[:, None] < rows)


@triton.jit(do_not_specialize=["tiles"])
def _factors_kernel(max_ptr, sum_ptr, key_ptr, factor_ptr, label_ptr, tiles, BLOCK: tl.constexpr):
    """factor[row, tile] = exp(max[tile] - m) / sum(sums exp(max - m)), m = max(max); label[row]"""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, BLOCK)
    at, inside = row * tiles + tile, tile < tiles
    maxima = tl.load(max_ptr + at, mask=inside, other=float("-inf"))
    sums = tl.load(sum_ptr + at, mask=inside, other=0.0)
    factors = tl.exp(maxima - tl.max(maxima, 0))
    tl.store(factor_ptr + at, factors / tl.sum(factors * sums, 0), mask=inside)
    keys = tl.load(key_ptr + at, mask=inside, other=LEAST_KEY)
    tl.store(label_ptr + row, key_position(tl.max(keys, 0)))


@triton.jit(do_not_specialize=["rows", "vocab", "tiles_per_part", "slices"])
def _mix_kernel(
    weights_ptr,
    factor_ptr,
    embedding_ptr,
    table_scale_ptr,
    partial_ptr,
    rows,
    size,
    vocab,
    tiles,
    stride_embedding_row,
    tiles_per_part,
    slices,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILE: tl.constexpr,
    EVEN_N: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """partial[part] = sum of factor[:, tile] (weights[:, tile] E[tile]) over the part's tiles of ids; factors
    are multiplied by the largest scale of the tile's ids, if E has any"""
    # Slices next to each other read the same weights.
    row = tl.program_id(0) // slices * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % slices * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(1)
    row_inside = tl.minimum(row, rows - 1).to(tl.int64)
    weights_ptr += row_inside[:, None] * (tiles * TILE)
    factor_ptr += row_inside * tiles
    sums = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for tile in range(part * tiles_per_part, tl.minimum((part + 1) * tiles_per_part, tiles)):
        token = tile * TILE + tl.arange(0, TILE)
        weights = tl.load(weights_ptr + token[None, :])
        e_ptr = embedding_ptr + tl.minimum(token, vocab - 1).to(tl.int64)[:, None] * stride_embedding_row
        if EVEN_N:
            e = tl.load(e_ptr + column[None, :])
        else:
            e = tl.load(e_ptr + column[None, :], mask=column[None, :] < size, other=0)
        factors = tl.load(factor_ptr + tile)
        if table_scale_ptr is not None:
            factors *= _largest_scale(tl.load(table_scale_ptr + token, mask=token < vocab, other=0.0))
        if INTERPRETED:
            weights, e = weights.to(tl.float32), e.to(tl.float32)
        mixed = tl.dot(weights, e.to(weights.dtype), input_precision="ieee")
        sums += factors[:, None] * mixed
    partial_ptr += (part.to(tl.int64) * rows + row[:, None]) * size + column[None, :]
    tl.store(partial_ptr, sums, mask=(row[:, None] < rows) & (column[None, :] < size))


@triton.jit(do_not_specialize=["parts"])
def _sum_kernel(partial_ptr, out_ptr, size, parts, BLOCK: tl.constexpr):
    """out = the sum of the parts"""
    row, rows = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for part in range(parts):
        total += tl.load(partial_ptr + (part * rows + row) * size + column, mask=inside, other=0.0)
    tl.store(out_ptr + row * size + column, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _logits_of_part(logit_ptr, vocab, BLOCK: tl.constexpr):
    """The logits of a row in a part of the ids, minus infinity past the vocabulary; their ids"""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    logit_ptr += tl.program_id(1).to(tl.int64) * vocab
    return tl.load(logit_ptr + token, mask=token < vocab, other=float("-inf")), token


@triton.jit
def _finite(largest):
    """0 where there is nothing but minus infinity, as the difference of two infinities would be NaN."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def _statistics_kernel(logit_ptr, statistics_ptr, key_ptr, vocab, BLOCK: tl.constexpr):
    """statistics[row, part] = max(logits), sum(exp(logits - max)); key[row, part]: that of the likeliest"""
    logits, token = _logits_of_part(logit_ptr, vocab, BLOCK)
    largest = tl.max(logits, 0)
    at = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(statistics_ptr + 2 * at, largest)
    tl.store(statistics_ptr + 2 * at + 1, tl.sum(tl.exp(logits - _finite(largest)), 0))
    keys = tl.where(token < vocab, sort_key(logits, token), LEAST_KEY)
    tl.store(key_ptr + at, tl.max(keys, 0))


@triton.jit
def _probabilities_kernel(
    logit_ptr,
    statistics_ptr,
    key_ptr,
    out_ptr,
    label_ptr,
    vocab,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """out[row, part] = softmax(logits[row]) in the part; label[row]"""
    row, parts = tl.program_id(1).to(tl.int64), tl.num_programs(0)
    part = tl.arange(0, PARTS)
    there = part < parts
    maxima = tl.load(statistics_ptr + 2 * (row * parts + part), mask=there, other=float("-inf"))
    sums = tl.load(statistics_ptr + 2 * (row * parts + part) + 1, mask=there, other=0.0)
    largest = _finite(tl.max(maxima, 0))
    factor = 1.0 / tl.sum(sums * tl.exp(maxima - largest), 0)
    logits, token = _logits_of_part(logit_ptr, vocab, BLOCK)
    probabilities = (tl.exp(logits - largest) * factor).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * vocab + token, probabilities, mask=token < vocab)
    if tl.program_id(0) == 0:
        keys = tl.load(key_ptr + row * parts + part, mask=there, other=LEAST_KEY)
        tl.store(label_ptr + row, key_position(tl.max(keys, 0)))
