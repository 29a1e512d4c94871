"""Attention over a paged KV cache: ragged prefill, chunked prefill and decoding in one op.

Each query of a sequence sees the sequence's positions up to its own. The cache of a layer is two
strided views (num_blocks, block_size, num_kv_heads, head_dim) into one storage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.flash_attention import (
    PromptKeys,
    flash_attn_available,
    on_flash_attn,
    prompt_attention,
)
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)
from antiphon.kernels.rope import apply_rope

__all__ = [
    "AttentionBatch",
    "paged_attention",
    "paged_attention_reference",
    "rope_cache_write",
    "rope_cache_write_reference",
]


@dataclass(frozen=True)
class AttentionBatch:
    """Where the tokens of a ragged batch stand, in their sequences and in the cache."""

    positions: Tensor
    """int32 (tokens)"""
    slot_mapping: Tensor
    """int64 (tokens): block * block_size + offset; -1 pads"""
    cu_seqlens_q: Tensor
    """int32 (seqs + 1)"""
    context_lens: Tensor
    """int32 (seqs): keys of each sequence, this batch's included"""
    block_table: Tensor
    """int32 (seqs, max_blocks)"""
    prompt_keys: PromptKeys | None = None
    """Where there are prompts on a GPU, for backends that want keys side by side"""

    @property
    def num_seqs(self) -> int:
        return self.context_lens.shape[0]


def rope_cache_write(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    num_heads: int,
    backend: str | None = None,
) -> Tensor:
    """Rotate q and k of `qkv` (tokens, (heads + 2 * kv_heads) * head_dim), write k and v to their slots.

    Returns q, rotated, as a view (tokens, heads, head_dim) of `qkv` where the backend works in place.
    Raises ValueError naming the argument that does not fit; slots and positions are trusted.
    """
    _check_cache(key_cache, value_cache, qkv)
    tokens, (num_kv_heads, head_dim) = len(batch.positions), key_cache.shape[2:]
    width = (num_heads + 2 * num_kv_heads) * head_dim
    if qkv.shape != (tokens, width) or not qkv.is_contiguous():
        raise ValueError(f"qkv: expected contiguous ({tokens}, {width}), got {tuple(qkv.shape)}")
    if cos_sin.dim() != 2 or cos_sin.shape[1] != head_dim or not cos_sin.is_contiguous():
        raise ValueError(f"cos_sin: expected contiguous (positions, {head_dim}), got {tuple(cos_sin.shape)}")
    _check_index("batch.positions", batch.positions, torch.int32, (tokens,))
    _check_index("batch.slot_mapping", batch.slot_mapping, torch.int64, (tokens,))
    write = resolve("rope_cache_write", backend, qkv.device, qkv.dtype)
    q: Tensor = write(qkv, cos_sin, batch, key_cache, value_cache, num_heads)
    return q


@register("rope_cache_write", "cpp", is_available=cpp_available, supports=cpp_float32)
def _rope_cache_write_cpp(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Tensor,
    value_cache: Tensor,
    num_heads: int,
) -> Tensor:
    from antiphon import _C

    _, block_size, num_kv_heads, head_dim = key_cache.shape
    tokens = qkv.shape[0]
    _C.rope_cache_write(
        qkv=qkv.data_ptr(),
        positions=batch.positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        slots=batch.slot_mapping.data_ptr(),
        key=key_cache.data_ptr(),
        value=value_cache.data_ptr(),
        block_stride=key_cache.stride(0),
        row_stride=key_cache.stride(1),
        block_size=block_size,
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
    key_cache: Tensor,
    value_cache: Tensor,
    num_heads: int,
) -> Tensor:
    from antiphon.kernels.triton.rope_cache_write import rope_cache_write as launch

    return launch(qkv, cos_sin, batch, key_cache, value_cache, num_heads)


@register("rope_cache_write", "torch")
def rope_cache_write_reference(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Tensor,
    value_cache: Tensor,
    num_heads: int,
) -> Tensor:
    _, block_size, num_kv_heads, head_dim = key_cache.shape
    heads = [num_heads, num_kv_heads, num_kv_heads]
    q, k, v = qkv.view(qkv.shape[0], sum(heads), head_dim).split(heads, dim=1)
    kept = batch.slot_mapping >= 0
    slots = batch.slot_mapping[kept]
    where = (slots // block_size, slots % block_size)
    key_cache[where] = apply_rope(k, batch.positions, cos_sin)[kept]
    value_cache[where] = v[kept]
    return apply_rope(q, batch.positions, cos_sin)


def paged_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    batch: AttentionBatch,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v over each sequence's cached positions.

    q: (tokens, heads, head_dim), rotated; heads is a multiple of the cache's kv heads
    scale: 1 / sqrt(head_dim) where not given
    Returns (tokens, heads * head_dim). Raises ValueError naming the argument that does not fit; what
    `batch` says is trusted.
    """
    _check_cache(key_cache, value_cache, q)
    if q.dim() != 3 or q.shape[2] != key_cache.shape[3] or q.shape[1] % key_cache.shape[2]:
        raise ValueError(
            f"q: expected (tokens, a multiple of {key_cache.shape[2]} heads, {key_cache.shape[3]}), "
            f"got {tuple(q.shape)}"
        )
    seqs = batch.num_seqs
    _check_index("batch.context_lens", batch.context_lens, torch.int32, (seqs,))
    _check_index("batch.cu_seqlens_q", batch.cu_seqlens_q, torch.int32, (seqs + 1,))
    max_blocks = batch.block_table.shape[-1]
    _check_index("batch.block_table", batch.block_table, torch.int32, (seqs, max_blocks))
    attend = resolve("paged_attention", backend, q.device, q.dtype)
    out: Tensor = attend(q, key_cache, value_cache, batch, q.shape[2] ** -0.5 if scale is None else scale)
    return out


@register("paged_attention", "cpp", is_available=cpp_available, supports=cpp_float32)
def _paged_attention_cpp(
    q: Tensor, key_cache: Tensor, value_cache: Tensor, batch: AttentionBatch, scale: float
) -> Tensor:
    from antiphon import _C

    tokens, num_heads, head_dim = q.shape
    if q.stride(2) != 1 or q.stride(1) != head_dim:
        q = q.contiguous()
    out = q.new_empty(tokens, num_heads * head_dim)
    _C.paged_attention(
        q=q.data_ptr(),
        ldq=q.stride(0),
        key=key_cache.data_ptr(),
        value=value_cache.data_ptr(),
        block_stride=key_cache.stride(0),
        row_stride=key_cache.stride(1),
        block_size=key_cache.shape[1],
        cu_seqlens_q=batch.cu_seqlens_q.data_ptr(),
        context_lens=batch.context_lens.data_ptr(),
        block_table=batch.block_table.data_ptr(),
        num_seqs=batch.num_seqs,
        max_blocks=batch.block_table.shape[1],
        num_heads=num_heads,
        num_kv_heads=key_cache.shape[2],
        head_dim=head_dim,
        scale=scale,
        out=out.data_ptr(),
    )
    return out


@register("paged_attention", "flash-attn", is_available=flash_attn_available, supports=on_flash_attn)
def _paged_attention_flash(
    q: Tensor, key_cache: Tensor, value_cache: Tensor, batch: AttentionBatch, scale: float
) -> Tensor:
    """Of prompts; decoding goes on as it would without."""
    if batch.prompt_keys is None:
        return _paged_attention_triton(q, key_cache, value_cache, batch, scale)
    return prompt_attention(q, key_cache, value_cache, batch.cu_seqlens_q, batch.prompt_keys, scale)


@register("paged_attention", "triton", is_available=triton_available, supports=on_triton)
def _paged_attention_triton(
    q: Tensor, key_cache: Tensor, value_cache: Tensor, batch: AttentionBatch, scale: float
) -> Tensor:
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    return launch(q, key_cache, value_cache, batch, scale)


@register("paged_attention", "torch")
def paged_attention_reference(
    q: Tensor, key_cache: Tensor, value_cache: Tensor, batch: AttentionBatch, scale: float
) -> Tensor:
    """One sequence after the other, its blocks gathered; softmax in float32."""
    tokens, num_heads, head_dim = q.shape
    out = torch.empty_like(q)
    starts, lens = batch.cu_seqlens_q.tolist(), batch.context_lens.tolist()
    block_size, group = key_cache.shape[1], num_heads // key_cache.shape[2]
    for i, keys in enumerate(lens):
        start, end = starts[i], starts[i + 1]
        if start == end:
            continue
        blocks = batch.block_table[i, : -(-keys // block_size)].long()
        k, v = (
            cache[blocks].flatten(0, 1)[:keys].repeat_interleave(group, dim=1).transpose(0, 1)
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


def _check_cache(key_cache: Tensor, value_cache: Tensor, like: Tensor) -> None:
    if key_cache.dim() != 4 or key_cache.shape[3] % 2:
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
    if not key_cache[0, 0].is_contiguous():
        raise ValueError(f"key_cache: expected positions to be contiguous, got strides {key_cache.stride()}")


def _check_index(name: str, index: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if index.dtype != dtype or index.shape != shape or not index.is_contiguous():
        raise ValueError(
            f"{name}: expected contiguous {dtype} {shape}, got {index.dtype} {tuple(index.shape)}"
        )
