"""A small call of each variant of each Triton kernel, to compile them all without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from antiphon.kernels import (
    AttentionBatch,
    FeedForward,
    QuantizedCache,
    QuantizedWeight,
    argmax_head,
    ctc_collapse,
    fusion_attention,
    fusion_cache_write,
    linear,
    masked_conv,
    masked_group_norm,
    norm_attention,
    norm_feed_forward,
    normal_rows,
    paged_attention,
    quantize_int8,
    rms_norm,
    rms_norm_residual,
    rope_cache_write,
    sample,
    silu_mul,
    snake,
    soft_embedding,
)
from antiphon.kernels.linear import TritonLinear

__all__ = ["CALLS", "DTYPES"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Each call is made in each of these."""

CALLS: dict[str, Callable[[torch.dtype], object]] = {}
"""By the name of the op, and of the variant if there are several."""


def call(function: Callable[[torch.dtype], object]) -> Callable[[torch.dtype], object]:
    CALLS[function.__name__] = function
    return function


def _argmax_head(dtype: torch.dtype, rows: int, size: int, top_k: int, with_subset: bool) -> object:
    head = linear(torch.zeros(200, size, dtype=dtype), backend="torch")
    subset = torch.arange(0, 200, 2) if with_subset else None
    return argmax_head(
        torch.zeros(rows, size, dtype=dtype), head, top_k=top_k, subset=subset, backend="triton"
    )


@call
def argmax_head_of_one_row(dtype: torch.dtype) -> object:
    return _argmax_head(dtype, 1, 1024, 1, with_subset=False)


@call
def argmax_head_of_one_odd_row(dtype: torch.dtype) -> object:
    return _argmax_head(dtype, 1, 100, 5, with_subset=True)


@call
def argmax_head_of_few_rows(dtype: torch.dtype) -> object:
    return _argmax_head(dtype, 8, 1024, 1, with_subset=True)


@call
def argmax_head_of_many_rows(dtype: torch.dtype) -> object:
    return _argmax_head(dtype, 70, 1024, 64, with_subset=False)


@call
def argmax_head_of_odd_rows(dtype: torch.dtype) -> object:
    return _argmax_head(dtype, 40, 100, 1, with_subset=False)


def _int8_head(
    size: int, *, dynamic: bool, rows: int, top_k: int, dtype: torch.dtype, with_subset: bool = False
) -> object:
    head = linear(quantize_int8(torch.zeros(200, size), dynamic=dynamic), backend="triton")
    subset = torch.arange(0, 200, 2) if with_subset else None
    return argmax_head(
        torch.zeros(rows, size, dtype=dtype), head, top_k=top_k, subset=subset, backend="triton"
    )


@call
def argmax_int8_head_of_one_row(dtype: torch.dtype) -> object:
    return _int8_head(1024, dynamic=False, rows=1, top_k=1, dtype=dtype)


@call
def argmax_int8_head_of_many_rows(dtype: torch.dtype) -> object:
    return _int8_head(1024, dynamic=False, rows=70, top_k=5, dtype=dtype)


@call
def argmax_int8_head_of_odd_rows(dtype: torch.dtype) -> object:
    return _int8_head(100, dynamic=False, rows=8, top_k=1, dtype=dtype, with_subset=True)


@call
def argmax_head_of_odd_int8_rows(dtype: torch.dtype) -> object:
    return _int8_head(100, dynamic=True, rows=8, top_k=5, dtype=dtype, with_subset=True)


@call
def argmax_head_of_an_int8_row(dtype: torch.dtype) -> object:
    return _int8_head(1024, dynamic=True, rows=1, top_k=1, dtype=dtype)


@call
def argmax_head_of_many_int8_rows(dtype: torch.dtype) -> object:
    return _int8_head(1024, dynamic=True, rows=70, top_k=1, dtype=dtype)


def _int8_products(dtype: torch.dtype, rows: int, *, dynamic: bool, size: int = 1024) -> object:
    """Of few outputs and a residual; of many, gated."""
    x = torch.zeros(rows, size, dtype=dtype)
    narrow, wide = (
        linear(
            QuantizedWeight(torch.zeros(out, size, dtype=torch.int8), torch.zeros(out), dynamic),
            backend="triton",
        )
        for out in (200, 2 * 8200)
    )
    narrow(x, x[:, :1].expand(rows, 200))
    assert isinstance(wide, TritonLinear)
    return wide.silu_mul(x)


@call
def linear_int8_of_one_row(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 1, dynamic=False)


@call
def linear_int8_of_few_rows(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 8, dynamic=False)


@call
def linear_int8_of_odd_rows(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 40, dynamic=False, size=100)


@call
def linear_int8_of_many_rows(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 200, dynamic=False)


@call
def linear_of_an_int8_row(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 1, dynamic=True)


@call
def linear_of_odd_int8_rows(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 40, dynamic=True, size=100)


@call
def linear_of_many_int8_rows(dtype: torch.dtype) -> object:
    return _int8_products(dtype, 200, dynamic=True)


@call
def linear_of_long_int8_rows(dtype: torch.dtype) -> object:
    weight = QuantizedWeight(torch.zeros(16, 20_000, dtype=torch.int8), torch.zeros(16), dynamic=True)
    return linear(weight, backend="triton")(torch.zeros(1, 20_000, dtype=dtype))


@call
def ctc_collapse_rows(dtype: torch.dtype) -> object:
    labels, cu_seqlens = torch.zeros(6, dtype=torch.int32), torch.tensor([0, 2, 6], dtype=torch.int32)
    return ctc_collapse(labels, cu_seqlens, 3, labels[:2], backend="triton")


@call
def ctc_collapse_first_rows(dtype: torch.dtype) -> object:
    labels, cu_seqlens = torch.zeros(6, dtype=torch.int32), torch.tensor([0, 2, 6], dtype=torch.int32)
    return ctc_collapse(labels, cu_seqlens, 3, backend="triton")


@call
def masked_conv_of_full_rows(dtype: torch.dtype) -> object:
    weight = torch.zeros(3, 512, 320, dtype=dtype)
    return masked_conv(torch.zeros(2, 320, 50).mT, weight, torch.zeros(512), backend="triton")


@call
def masked_conv_of_padded_rows(dtype: torch.dtype) -> object:
    weight, lengths = torch.zeros(3, 70, 256, dtype=dtype), torch.zeros(9, dtype=torch.int32)
    x, bias = torch.zeros(9, 200, 256, dtype=dtype), torch.zeros(70)
    return masked_conv(x, weight, bias, lengths, stride=2, mask_output=True, backend="triton")


@call
def norm_attention_of_full_rows(dtype: torch.dtype) -> object:
    x, weight = torch.zeros(2, 50, 256), torch.zeros(1536, 256, dtype=dtype)
    return norm_attention(x, x[0, 0], x[0, 0], 1e-5, weight, 8, backend="triton")


@call
def norm_attention_of_padded_rows(dtype: torch.dtype) -> object:
    x, weight = torch.zeros(2, 9, 40), torch.zeros(108, 40, dtype=dtype)
    lengths = torch.zeros(2, dtype=torch.int32)
    return norm_attention(x, x[0, 0], x[0, 0], 1e-5, weight, 3, lengths, backend="triton")


def _norm_feed_forward(dtype: torch.dtype, rows: int, counters: torch.Tensor | None = None) -> object:
    square, bias, up = torch.zeros(256, 1024, dtype=dtype), torch.zeros(256), torch.zeros(1024)
    layer = FeedForward(
        square[:, :512], bias, bias, bias, square.view(1024, 256), up, square, bias, 1e-5, counters
    )
    return norm_feed_forward(
        torch.zeros(rows, 60, 256), torch.zeros(rows, 60, 512, dtype=dtype), layer, backend="triton"
    )


@call
def norm_feed_forward_of_few_rows(dtype: torch.dtype) -> object:
    return _norm_feed_forward(dtype, 2)


@call
def norm_feed_forward_in_parts(dtype: torch.dtype) -> object:
    return _norm_feed_forward(dtype, 2, torch.zeros(128, dtype=torch.int32))


@call
def norm_feed_forward_of_many_rows(dtype: torch.dtype) -> object:
    return _norm_feed_forward(dtype, 200)


def _masked_group_norm(dtype: torch.dtype, with_mask: bool) -> object:
    x = torch.zeros(2, 24, 50, dtype=dtype)
    mask = torch.ones(2, 1, 50, dtype=dtype) if with_mask else None
    return masked_group_norm(x, x[0, :, 0], x[0, :, 0], 8, 1e-5, mask, backend="triton")


@call
def masked_group_norm_of_padded_rows(dtype: torch.dtype) -> object:
    return _masked_group_norm(dtype, with_mask=True)


@call
def masked_group_norm_of_full_rows(dtype: torch.dtype) -> object:
    return _masked_group_norm(dtype, with_mask=False)


@call
def masked_group_norm_of_long_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(2, 256, 600, dtype=dtype)
    row = x[0, :, 0]
    return masked_group_norm(
        x, row, row, 8, 1e-5, shift=row, residual=x, out_dtype=torch.float16, backend="triton"
    )


@call
def normal_rows_of_any_width(dtype: torch.dtype) -> object:
    seeds = torch.zeros(2, dtype=torch.int64)
    return normal_rows(seeds, seeds, 3, 5, 2304, backend="triton")


def _sample(dtype: torch.dtype, vocab: int) -> object:
    ones = torch.ones(2, dtype=torch.float32)
    return sample(
        torch.zeros(2, vocab, dtype=dtype), ones, ones.int(), ones, ones.long(), ones.long(), backend="triton"
    )


@call
def sample_of_few_ids(dtype: torch.dtype) -> object:
    return _sample(dtype, 50)


@call
def sample_of_more_ids(dtype: torch.dtype) -> object:
    return _sample(dtype, 100)


@call
def sample_of_many_ids(dtype: torch.dtype) -> object:
    return _sample(dtype, 20_000)


@call
def silu_mul_rows(dtype: torch.dtype) -> object:
    return silu_mul(torch.zeros(3, 64, dtype=dtype), backend="triton")


@call
def rms_norm_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(3, 64, dtype=dtype)
    return rms_norm(x, x[0], 1e-5, backend="triton")


@call
def rms_norm_residual_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(3, 64, dtype=dtype)
    return rms_norm_residual(x, x, x[0], 1e-5, backend="triton")


def attention_batch(tokens: int, num_seqs: int, max_blocks: int) -> AttentionBatch:
    return AttentionBatch(
        positions=torch.zeros(tokens, dtype=torch.int32),
        slot_mapping=torch.zeros(tokens, dtype=torch.int64),
        cu_seqlens_q=torch.zeros(num_seqs + 1, dtype=torch.int32),
        context_lens=torch.zeros(num_seqs, dtype=torch.int32),
        block_table=torch.zeros(num_seqs, max_blocks, dtype=torch.int32),
    )


def attention(
    dtype: torch.dtype,
    tokens: int,
    num_seqs: int,
    *,
    heads: int = 32,
    head_dim: int = 128,
    max_blocks: int = 8,
    is_int8: bool = False,
) -> object:
    """8 kv heads and blocks of 16, with the queries where `rope_cache_write` leaves them."""
    qkv = torch.empty(tokens, (heads + 16) * head_dim, dtype=dtype)
    q = qkv[:, : heads * head_dim].view(tokens, heads, head_dim)
    keys, values = int8_cache(head_dim) if is_int8 else torch.empty(2, 2, 16, 8, head_dim, dtype=dtype)
    batch = attention_batch(tokens, num_seqs, max_blocks)
    return paged_attention(q, keys, values, batch, backend="triton")


def int8_cache(head_dim: int) -> tuple[QuantizedCache, QuantizedCache]:
    numbers, scales = torch.zeros(2, 2, 16, 8, head_dim, dtype=torch.int8), torch.zeros(2, 2, 8, 16)
    return QuantizedCache(numbers[0], scales[0]), QuantizedCache(numbers[1], scales[1])


@call
def paged_attention_decode(dtype: torch.dtype) -> object:
    return attention(dtype, 64, 64)


@call
def paged_attention_decode_split(dtype: torch.dtype) -> object:
    """64 splits, the most that there can be."""
    return attention(dtype, 1, 1, max_blocks=1024)


@call
def paged_attention_prefill_split(dtype: torch.dtype) -> object:
    return attention(dtype, 100, 1, max_blocks=256)


@call
def paged_attention_mixed(dtype: torch.dtype) -> object:
    """Prefill and decoding in two launches."""
    return attention(dtype, 600, 3)


@call
def paged_attention_wide(dtype: torch.dtype) -> object:
    """The largest heads, seven per kv head."""
    return attention(dtype, 600, 3, heads=56, head_dim=256)


@call
def paged_attention_int8_decode_split(dtype: torch.dtype) -> object:
    return attention(dtype, 1, 1, max_blocks=1024, is_int8=True)


@call
def paged_attention_int8_mixed(dtype: torch.dtype) -> object:
    return attention(dtype, 600, 3, is_int8=True)


@call
def rope_and_int8_cache(dtype: torch.dtype) -> object:
    batch, (keys, values) = attention_batch(3, 1, 8), int8_cache(128)
    qkv, table = torch.empty(3, 48 * 128, dtype=dtype), torch.empty(9, 128)
    return rope_cache_write(qkv, table, batch, keys, values, num_heads=32, backend="triton")


@call
def rope_and_cache(dtype: torch.dtype) -> object:
    batch = attention_batch(3, 1, 8)
    keys, values = torch.empty(2, 2, 16, 8, 128, dtype=dtype)
    qkv, table = torch.empty(3, 48 * 128, dtype=dtype), torch.empty(9, 128)
    return rope_cache_write(qkv, table, batch, keys, values, num_heads=32, backend="triton")


def windows(dtype: torch.dtype, *, by_rows: bool) -> object:
    q, table = torch.empty(3, 32, 128, dtype=dtype), torch.empty(9, 128)
    k, v = torch.empty(3, 5, 2, 32, 128, dtype=dtype).unbind(2)
    num_valid = positions = torch.zeros(3, dtype=torch.int32)
    rows = torch.zeros(3, dtype=torch.int64) if by_rows else None
    return fusion_attention(q, k, v, num_valid, positions, table, rows=rows, backend="triton")


@call
def fusion_windows(dtype: torch.dtype) -> object:
    return windows(dtype, by_rows=False)


@call
def fusion_windows_of_a_cache(dtype: torch.dtype) -> object:
    return windows(dtype, by_rows=True)


@call
def fusion_entries(dtype: torch.dtype) -> object:
    kv, cache = torch.empty(3, 5, 2, 4096, dtype=dtype), torch.empty(4, 5, 5, 2, 4096, dtype=dtype)
    slots, positions = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)
    table = torch.empty(9, 128)
    fusion_cache_write(kv, slots, positions, table, cache, head_dim=128, backend="triton")
    return cache


def _soft_embedding(dtype: torch.dtype, rows: int, size: int) -> object:
    weight = torch.zeros(200, size, dtype=dtype)
    hidden = torch.zeros(rows, size, dtype=dtype)
    return soft_embedding(hidden, linear(weight, backend="torch"), weight, backend="triton")


@call
def soft_embedding_of_few_rows(dtype: torch.dtype) -> object:
    return _soft_embedding(dtype, 3, 1024)


@call
def soft_embedding_of_many_rows(dtype: torch.dtype) -> object:
    return _soft_embedding(dtype, 96, 1024)


@call
def soft_embedding_of_odd_rows(dtype: torch.dtype) -> object:
    return _soft_embedding(dtype, 40, 100)


def _soft_int8_embedding(dtype: torch.dtype, rows: int, *, dynamic: bool, size: int = 1024) -> object:
    weight = quantize_int8(torch.zeros(200, size), dynamic=dynamic)
    hidden = torch.zeros(rows, size, dtype=dtype)
    return soft_embedding(hidden, linear(weight, backend="triton"), weight, backend="triton")


@call
def soft_int8_embedding_of_few_rows(dtype: torch.dtype) -> object:
    return _soft_int8_embedding(dtype, 3, dynamic=True)


@call
def soft_int8_embedding_of_many_rows(dtype: torch.dtype) -> object:
    return _soft_int8_embedding(dtype, 200, dynamic=False)


@call
def soft_int8_embedding_of_odd_rows(dtype: torch.dtype) -> object:
    return _soft_int8_embedding(dtype, 40, dynamic=True, size=100)


@call
def soft_embedding_of_an_int8_table(dtype: torch.dtype) -> object:
    """With a head that was kept as it is."""
    weight = torch.zeros(200, 1024, dtype=dtype)
    head = linear(weight, backend="torch")
    return soft_embedding(weight[:3], head, quantize_int8(weight), backend="triton")


@call
def soft_embedding_of_an_int8_head(dtype: torch.dtype) -> object:
    """With a table that was kept as it is."""
    weight = torch.zeros(200, 1024, dtype=dtype)
    head = linear(quantize_int8(weight), backend="triton")
    return soft_embedding(weight[:40], head, weight, backend="triton")


@call
def snake_of_channels_side_by_side(dtype: torch.dtype) -> object:
    x = torch.zeros(2, 70, 5, dtype=dtype)
    return snake(x.mT, x[0, 0], out_dtype=torch.bfloat16, backend="triton")


@call
def snake_of_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(2, 5, 70, dtype=dtype)
    return snake(x, x[0, :, 0], backend="triton")


@call
def snake_of_padded_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(2, 70, 5, dtype=dtype)
    return snake(x.mT, torch.zeros(5), torch.ones(2, 1, 70), backend="triton")
