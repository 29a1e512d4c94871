"""Paged attention by flash-attn 2, if it is asked for (Dao 2023, arXiv 2307.08691); NVIDIA GPUs, 16 bits.

It reads the blocks where they lie, if they have a multiple of 256 positions. A step of one query for each
sequence waits for nothing and takes all sizes from tensors, so it can be recorded; a batch of other lengths
needs their largest on the host.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch, BatchSequences
from antiphon.kernels.attention_libraries import LIBRARIES
from antiphon.kernels.quantized_cache import Cache

__all__ = ["FlashAttnPlanner", "RaggedLengths", "flash_attention"]

LIBRARY = LIBRARIES["flash-attn"]


@dataclass(frozen=True, eq=False)
class RaggedLengths:
    """What flash-attn is told of a batch whose sequences do not all have one query."""

    cu_seqlens_k: Tensor
    """int32 (seqs + 1)"""
    max_seqlen_q: int
    max_seqlen_k: int


class FlashAttnPlanner:
    """Makes batches ready; it keeps nothing. Its recorded steps are flash-attn's, too."""

    recorded_backend = "flash-attn"

    def prepared(self, batch: AttentionBatch, sequences: BatchSequences) -> AttentionBatch:
        if all(length == 1 for length in sequences.lengths):
            return replace(batch, backend=LIBRARY.backend, plan=None)
        ends = torch.tensor([0, *accumulate(sequences.ends)], dtype=torch.int32)
        lengths = RaggedLengths(
            cu_seqlens_k=ends.to(batch.context_lens.device, non_blocking=True),
            # From a maximum of 1 it would conclude that no sequence has fewer.
            max_seqlen_q=max(2, *sequences.lengths),
            max_seqlen_k=max(sequences.ends),
        )
        return replace(batch, backend=LIBRARY.backend, plan=lengths)

    def warm_up(self, key_cache: Cache, value_cache: Cache) -> None:
        """It comes compiled."""


def flash_attention(
    q: Tensor, key_cache: Cache, value_cache: Cache, batch: AttentionBatch, scale: float
) -> Tensor:
    """`paged_attention` of a batch that a `FlashAttnPlanner` made ready: q (tokens, heads, head_dim) ->
    (tokens, heads * head_dim). Without a plan, each sequence has one query."""
    LIBRARY.check_cache(key_cache)
    flash_attn = importlib.import_module("flash_attn")
    if batch.plan is None:
        if len(q) != batch.num_seqs:
            raise ValueError(
                f"batch.plan: expected RaggedLengths for {len(q)} queries of {batch.num_seqs} sequences, "
                "got None"
            )
        out: Tensor = flash_attn.flash_attn_with_kvcache(
            q[:, None],
            key_cache,
            value_cache,
            cache_seqlens=batch.context_lens,
            block_table=batch.block_table,
            softmax_scale=scale,
            causal=True,
        )
        return out.flatten(1)
    if not isinstance(batch.plan, RaggedLengths):
        raise ValueError(f"batch.plan: expected RaggedLengths or None, got {type(batch.plan).__name__}")
    out = flash_attn.flash_attn_varlen_func(
        q,
        key_cache,
        value_cache,
        batch.cu_seqlens_q,
        batch.plan.cu_seqlens_k,
        batch.plan.max_seqlen_q,
        batch.plan.max_seqlen_k,
        softmax_scale=scale,
        causal=True,  # aligned at the end: q holds only each sequence's last positions
        block_table=batch.block_table,
    )
    return out.flatten(1)
