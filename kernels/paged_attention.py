"""Attention over a paged KV cache: ragged prefill, chunked prefill and decoding in one op.

Each query sees the positions of its sequence up to its own. The cache of a layer is two strided views
(num_blocks, block_size, num_kv_heads, head_dim) into one storage, or two such in eight bits, see
quantized_cache.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.attention_batch import (
    AttentionBatch,
    check_batch,
    check_cache,
    check_caches_written,
    check_sequences,
    check_slots,
)
from antiphon.kernels.attention_libraries import library_available, on_16_bit_gpu
from antiphon.kernels.checks import (
    FLOATS,
    address,
    check,
    check_integer,
    check_number,
    check_plain,
    check_range,
    check_written,
)
from antiphon.kernels.flash_attention import flash_attention
from antiphon.kernels.flashinfer_attention import flashinfer_attention
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized_cache import (
    Cache,
    cache_address,
    dense_blocks,
    numbers_of,
    write_rows,
)
from antiphon.kernels.registry import (
    Backend,
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)
from antiphon.kernels.rope import check_table, rotated

__all__ = [
    "AttentionBatch",
    "paged_attention",
    "paged_attention_reference",
    "rope_cache_write",
    "rope_cache_write_reference",
]


def rope_cache_write(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Cache,
    value_cache: Cache,
    *,
    num_heads: int,
    backend: str | None = None,
) -> Tensor:
    """Rotates q and k of `qkv` (tokens, (heads + 2 * kv_heads) * head_dim), writes k and v to their slots.

    `qkv` is consumed. Returns q, rotated, (tokens, heads, head_dim); a view of `qkv` where the backend works
    in place. cos_sin: the rotary table (positions, head_dim), see `rope_table`

    Raises ValueError naming the argument that does not fit; slots and positions out of range, and a slot
    given twice, are noticed where that does not mean waiting for the device.
    """
    num_heads = check_integer("num_heads", num_heads, 1)
    check_batch(batch)
    check_plain("qkv", qkv)
    check_cache(key_cache, value_cache, qkv)
    check("batch.positions", batch.positions, torch.int32, ("tokens",), ("qkv", qkv), contiguous=True)
    tokens, (num_kv_heads, head_dim) = len(batch.positions), numbers_of(key_cache).shape[2:]
    width = (num_heads + 2 * num_kv_heads) * head_dim
    check("qkv", qkv, FLOATS, (tokens, width), contiguous=True)
    check_table("cos_sin", cos_sin, head_dim, ("qkv", qkv))
    check_slots(batch, qkv, key_cache)
    check_range("batch.positions", batch.positions, 0, len(cos_sin) - 1)
    others = (
        ("batch.positions", batch.positions),
        ("batch.slot_mapping", batch.slot_mapping),
        ("cos_sin", cos_sin),
    )
    check_caches_written([(key_cache, value_cache)], (("qkv", qkv), *others))
    check_written("qkv", qkv, others)
    write = resolve("rope_cache_write", backend, qkv.device, qkv.dtype, qkv)
    q: Tensor = write(qkv, cos_sin, batch, key_cache, value_cache, num_heads)
    return q


@register("rope_cache_write", "cpp", is_available=cpp_available, supports=cpp_float32)
def _rope_cache_write_cpp(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Cache,
    value_cache: Cache,
    num_heads: int,
) -> Tensor:
    from antiphon.kernels import _C

    num_kv_heads, head_dim = numbers_of(key_cache).shape[2:]
    tokens, cos_sin = qkv.shape[0], cos_sin.float()
    _C.rope_cache_write(
        qkv=address(qkv),
        positions=address(batch.positions),
        cos_sin=address(cos_sin),
        slots=address(batch.slot_mapping),
        cache=cache_address(key_cache, value_cache),
        num_tokens=tokens,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
    )
    return qkv[:, : num_heads * head_dim].view(tokens, num_heads, head_dim)


@register("rope_cache_write", "triton", is_available=triton_available, supports=on_triton)
def _rope_cache_write_triton(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Cache,
    value_cache: Cache,
    num_heads: int,
) -> Tensor:
    from antiphon.kernels.triton.rope_cache_write import rope_cache_write as launch

    return launch(qkv, cos_sin, batch, key_cache, value_cache, num_heads)


@register("rope_cache_write", "torch")
def rope_cache_write_reference(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Cache,
    value_cache: Cache,
    num_heads: int,
) -> Tensor:
    num_kv_heads, head_dim = numbers_of(key_cache).shape[2:]
    heads = [num_heads, num_kv_heads, num_kv_heads]
    q, k, v = qkv.view(qkv.shape[0], sum(heads), head_dim).split(heads, dim=1)
    kept = batch.slot_mapping >= 0
    slots = batch.slot_mapping[kept]
    write_rows(key_cache, slots, rotated(at_least_float32(k), batch.positions, cos_sin)[kept])
    write_rows(value_cache, slots, v[kept])
    return rotated(q, batch.positions, cos_sin)


def paged_attention(
    q: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    batch: AttentionBatch,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v over each sequence's cached positions.

    q: (tokens, heads, head_dim), rotated; heads is a multiple of the cache's kv heads
    scale: 1 / sqrt(head_dim) if not given
    backend: if not given, the one that `batch` was made ready for, if it was
    Returns (tokens, heads * head_dim). Raises ValueError naming the argument that does not fit; the values in
    `batch` are checked where that does not mean waiting for the device.
    """
    check_batch(batch)
    check_plain("q", q)
    check_cache(key_cache, value_cache, q)
    kv_heads, head_dim = numbers_of(key_cache).shape[2:]
    check("q", q, FLOATS, ("tokens", f"a multiple of {kv_heads} heads", head_dim))
    if not q.shape[1] or q.shape[1] % kv_heads:
        raise ValueError(
            f"q: expected (tokens, a multiple of {kv_heads} heads, {head_dim}), got {tuple(q.shape)}"
        )
    check_sequences(batch, q, key_cache)
    scale = head_dim**-0.5 if scale is None else check_number("scale", scale)
    numbers = numbers_of(key_cache), numbers_of(value_cache)
    backend = batch.backend if backend is None else backend
    attend = resolve("paged_attention", backend, q.device, q.dtype, q, *numbers)
    out: Tensor = attend(q, key_cache, value_cache, batch, scale)
    return out


@register("paged_attention", "cpp", is_available=cpp_available, supports=cpp_float32)
def _paged_attention_cpp(
    q: Tensor, key_cache: Cache, value_cache: Cache, batch: AttentionBatch, scale: float
) -> Tensor:
    from antiphon.kernels import _C

    tokens, num_heads, head_dim = q.shape
    if q.stride(2) != 1 or q.stride(1) != head_dim:
        q = q.contiguous()
    out = q.new_empty(tokens, num_heads * head_dim)
    _C.paged_attention(
        q=address(q),
        ldq=q.stride(0),
        cache=cache_address(key_cache, value_cache),
        cu_seqlens_q=address(batch.cu_seqlens_q),
        context_lens=address(batch.context_lens),
        block_table=address(batch.block_table),
        num_seqs=batch.num_seqs,
        max_blocks=batch.block_table.shape[1],
        num_heads=num_heads,
        num_kv_heads=numbers_of(key_cache).shape[2],
        head_dim=head_dim,
        scale=scale,
        out=address(out),
    )
    return out


@register("paged_attention", "triton", is_available=triton_available, supports=on_triton)
def _paged_attention_triton(
    q: Tensor, key_cache: Cache, value_cache: Cache, batch: AttentionBatch, scale: float
) -> Tensor:
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    return launch(q, key_cache, value_cache, batch, scale)


@register("paged_attention", "torch")
def paged_attention_reference(
    q: Tensor, key_cache: Cache, value_cache: Cache, batch: AttentionBatch, scale: float
) -> Tensor:
    """One sequence after the other, its blocks gathered; softmax in float32."""
    tokens, num_heads, head_dim = q.shape
    out = q.new_empty(q.shape)
    starts, lens = batch.cu_seqlens_q.tolist(), batch.context_lens.tolist()
    block_size, num_kv_heads = numbers_of(key_cache).shape[1:3]
    group = num_heads // num_kv_heads
    for i, keys in enumerate(lens):
        start, end = starts[i], starts[i + 1]
        if start == end:
            continue
        blocks = batch.block_table[i, : -(-keys // block_size)].long()
        k, v = (
            dense_blocks(cache, blocks, q.dtype)
            .flatten(0, 1)[:keys]
            .repeat_interleave(group, dim=1)
            .transpose(0, 1)
            for cache in (key_cache, value_cache)
        )
        mask = torch.ones(end - start, keys, dtype=torch.bool, device=q.device).tril(keys - (end - start))
        seq = q[start:end].transpose(0, 1)
        if q.dtype == torch.float32:
            scores = (seq @ k.transpose(1, 2) * scale).masked_fill(~mask, float("-inf"))
            mixed = scores.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(seq[None], k[None], v[None], mask, scale=scale)[0]
        out[start:end] = mixed.transpose(0, 1)
    return out.view(tokens, num_heads * head_dim)


def _register_library(backend: Backend, function: Callable[..., Tensor]) -> None:
    """Behind the reference, which takes everything: it runs only if it is named."""
    is_available = partial(library_available, backend)
    register("paged_attention", backend, is_available=is_available, supports=on_16_bit_gpu)(function)


_register_library("flash-attn", flash_attention)
_register_library("flashinfer", flashinfer_attention)
