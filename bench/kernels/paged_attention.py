"""Attention over the cache: decoding, alone and together, and a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.bench.kernels.batches import attention_batch, attention_shapes, kv_cache
from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import paged_attention

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    sizes = setting.sizes
    heads, kv_heads, head_dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    for seqs, new, context in attention_shapes(setting):

        def inputs(backend: str, seqs: int = seqs, new: int = new, context: int = context) -> tuple[Any, ...]:
            q = setting.randn(seqs * new, heads, head_dim)
            return q, *kv_cache(setting, seqs, context)[0], attention_batch(setting, seqs, new, context)

        keys_seen = new * (context - new) + new * (new + 1) // 2  # by the queries of a sequence together
        yield Case(
            shape=f"{seqs} x {new} over {context}",
            num_bytes=seqs * (2 * context * kv_heads + 2 * new * heads) * head_dim * setting.itemsize,
            num_ops=4 * seqs * keys_seen * heads * head_dim,
            inputs=inputs,
            call=paged_attention,
            others={"dense sdpa": _dense(setting, seqs, new, context)},
        )


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
