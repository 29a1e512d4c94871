"""Attention over the cache, also in int8 and by libraries: decoding, alone and together, and a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.bench.kernels.batches import BLOCK_SIZE, attention_batch, attention_shapes, kv_cache
from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import AttentionBatch, QuantizedCache, paged_attention, quantize_heads
from antiphon.kernels.attention_batch import AttentionPlanner, BatchSequences
from antiphon.kernels.attention_libraries import LIBRARIES
from antiphon.kernels.flash_attention import FlashAttnPlanner
from antiphon.kernels.flashinfer_attention import FlashInferPlanner
from antiphon.kernels.quantized_cache import Caches

__all__ = ["cases"]

LONG_CONTEXTS = ((1, 1, 1000), (1, 1, 4000), (16, 1, 1000), (16, 1, 4000))
"""(sequences, new tokens of each, context of each)"""


def cases(setting: Setting) -> Iterator[Case]:
    sizes = setting.sizes
    heads, kv_heads, head_dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    refused = frozenset(
        name for name, library in LIBRARIES.items() if library.refusal(head_dim, [_block_size(name)])
    )
    for seqs, new, context in [*attention_shapes(setting), *LONG_CONTEXTS]:

        def inputs(backend: str, seqs: int = seqs, new: int = new, context: int = context) -> tuple[Any, ...]:
            q = setting.randn(seqs * new, heads, head_dim)
            size = _block_size(backend)
            cache = kv_cache(setting, seqs, context, block_size=size)[0]
            batch = attention_batch(setting, seqs, new, context, size)
            planner = _planner(backend, setting)  # one for each: it has room for one plan
            if planner is not None:
                tables = batch.block_table.tolist()
                batch = planner.prepared(batch, BatchSequences([new] * seqs, [context] * seqs, tables, size))
            return q, *cache, batch

        keys_seen = new * (context - new) + new * (new + 1) // 2  # by the queries of a sequence together
        yield Case(
            shape=f"{seqs} x {new} over {context}",
            num_bytes=seqs * (2 * context * kv_heads + 2 * new * heads) * head_dim * setting.itemsize,
            num_ops=4 * seqs * keys_seen * heads * head_dim,
            inputs=inputs,
            call=paged_attention,
            refused_by=refused,
            others={"dense sdpa": _dense(setting, seqs, new, context), "int8 cache": _in_int8()},
        )


def _block_size(backend: str) -> int:
    return max(BLOCK_SIZE, LIBRARIES[backend].page_multiple) if backend in LIBRARIES else BLOCK_SIZE


def _planner(backend: str, setting: Setting) -> AttentionPlanner | None:
    sizes = setting.sizes
    if backend == "flash-attn":
        return FlashAttnPlanner()
    if backend == "flashinfer":
        return FlashInferPlanner(
            sizes.num_heads, sizes.num_kv_heads, sizes.head_dim, setting.dtype, setting.device
        )
    return None


def _in_int8() -> Callable[[Tensor, Tensor, Tensor, AttentionBatch], Tensor]:
    """By the backend that runs by default, over the same keys and values in int8."""
    quantized: dict[int, Caches] = {}

    def attend(q: Tensor, keys: Tensor, values: Tensor, batch: AttentionBatch) -> Tensor:
        place = keys.data_ptr()
        if place not in quantized:
            numbers, scales = quantize_heads(torch.stack([keys, values], dim=1))
            scales = scales.transpose(2, 3).contiguous()
            quantized[place] = (
                QuantizedCache(numbers[:, 0], scales[:, 0]),
                QuantizedCache(numbers[:, 1], scales[:, 1]),
            )
        return paged_attention(q, *quantized[place], batch)

    return attend


def _dense(setting: Setting, seqs: int, new: int, context: int) -> Any:
    """PyTorch's own attention over a cache that is not paged, to show what paging costs. On a GPU it is
    FlashAttention."""
    sizes = setting.sizes
    k, v = (setting.randn(seqs, sizes.num_kv_heads, context, sizes.head_dim) for _ in range(2))
    seen = torch.ones(new, context, dtype=torch.bool, device=setting.device).tril(context - new)
    mask = None if new == 1 else seen

    def attend(q: Tensor, *_: object) -> Tensor:
        q = q.view(seqs, new, sizes.num_heads, sizes.head_dim).transpose(1, 2)
        if mask is not None and new == context:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    return attend
