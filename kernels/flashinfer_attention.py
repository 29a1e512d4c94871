"""Paged attention by FlashInfer, if it is asked for (Ye et al. 2025, arXiv 2501.01005); NVIDIA GPUs, 16 bits.

It reads pages of any size. Work is shared out by a plan, which the host makes from the lengths of a batch
before the first layer, and which all layers of a pass use. A plan cannot be made inside a recording, so
recorded steps are left to our kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch, BatchSequences
from antiphon.kernels.attention_libraries import LIBRARIES
from antiphon.kernels.quantized_cache import Cache, numbers_of

__all__ = ["FlashInferPlan", "FlashInferPlanner", "flashinfer_attention"]

LIBRARY = LIBRARIES["flashinfer"]
LAYOUT = "NHD"
"""Pages of (positions, kv heads, head_dim)"""
KERNELS = "fa2"
"""Of its kernels those that run on every GPU from compute capability 8.0 on. They are compiled here from the
package's own source, and none is fetched over the network."""
WORKSPACE_BYTES = 128 << 20
"""What its documentation recommends"""


class FlashInferPlanner:
    """Makes batches of one model ready, one at a time, on the stream on which they are computed. It has the
    memory that plans lie in, so a batch must be done with before the next is made ready."""

    recorded_backend = None

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        flashinfer = importlib.import_module("flashinfer")
        self._heads = num_heads, num_kv_heads, head_dim
        self._dtype, self._device = dtype, device
        self.scale: float = head_dim**-0.5
        # Zeros are what it expects to find at first.
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            LAYOUT,
            use_tensor_cores=True,  # for which prompts' kernels are taken, whatever the size of a group
            backend=KERNELS,
        )
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, LAYOUT, backend=KERNELS)
        self._copied: torch.cuda.Event | None = None
        self.num_planned = 0

    def prepared(self, batch: AttentionBatch, sequences: BatchSequences) -> AttentionBatch:
        return replace(batch, backend=LIBRARY.backend, plan=self._plan(sequences))

    def warm_up(self, key_cache: Cache, value_cache: Cache) -> None:
        """Have it compile what serving needs, which it does once on a machine."""
        block_size = numbers_of(key_cache).shape[1]
        for length in (1, 2):
            plan = self._plan(BatchSequences([length], [length], [[0] * length], block_size))
            q = torch.zeros(length, self._heads[0], self._heads[2], dtype=self._dtype, device=self._device)
            plan.run(q, key_cache, value_cache)

    def _plan(self, sequences: BatchSequences) -> FlashInferPlan:
        size, ends = sequences.block_size, sequences.ends
        counts = [-(-end // size) for end in ends]
        tables = zip(sequences.block_tables, counts, strict=True)
        # All on the host: from a tensor of the device it would fetch them back, and wait.
        pages = (
            _int32([0, *accumulate(counts)]),
            _int32([block for table, count in tables for block in table[:count]]),
            _int32([end - max(count - 1, 0) * size for end, count in zip(ends, counts, strict=True)]),
        )
        settings: dict[str, Any] = {
            "sm_scale": self.scale,
            "q_data_type": self._dtype,
            "kv_data_type": self._dtype,
        }
        if self._copied is not None:
            # A plan is copied to the device from pinned memory, which the next one overwrites.
            self._copied.synchronize()
        if all(length == 1 for length in sequences.lengths):
            wrapper = self._decode
            wrapper.plan(*pages, *self._heads, size, **settings)
        else:
            wrapper = self._prefill
            starts = _int32([0, *accumulate(sequences.lengths)])
            wrapper.plan(starts, *pages, *self._heads, size, causal=True, **settings)
        if self._device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record()
        self.num_planned += 1
        return FlashInferPlan(self, wrapper, self.num_planned)


@dataclass(frozen=True, eq=False)
class FlashInferPlan:
    """How the work of one batch is shared out."""

    planner: FlashInferPlanner
    wrapper: Any
    number: int

    def run(self, q: Tensor, key_cache: Cache, value_cache: Cache) -> Tensor:
        """(tokens, heads, head_dim), like q"""
        if self.number != self.planner.num_planned:
            raise ValueError(
                f"batch.plan: expected that of the last batch, number {self.planner.num_planned}, "
                f"got number {self.number}, which has been overwritten"
            )
        out: Tensor = self.wrapper.run(q, (key_cache, value_cache))
        return out


def flashinfer_attention(
    q: Tensor, key_cache: Cache, value_cache: Cache, batch: AttentionBatch, scale: float
) -> Tensor:
    """`paged_attention` of a batch that a `FlashInferPlanner` made ready: q (tokens, heads, head_dim) ->
    (tokens, heads * head_dim)"""
    LIBRARY.check_cache(key_cache)
    plan = batch.plan
    if not isinstance(plan, FlashInferPlan):
        raise ValueError(f"batch.plan: expected a FlashInferPlan, got {type(plan).__name__}")
    if scale != plan.planner.scale:
        raise ValueError(f"scale: expected {plan.planner.scale} as it was planned, got {scale}")
    return plan.run(q, key_cache, value_cache).flatten(1)


def _int32(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)
