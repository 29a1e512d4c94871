"""Rotation of q and k, and the write of k and v to their slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.bench.kernels.batches import attention_batch, attention_shapes, cos_sin, kv_cache
from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import AttentionBatch, rope_cache_write

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    sizes = setting.sizes
    width = (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_dim
    for seqs, new, context in attention_shapes(setting):
        tokens = seqs * new

        def inputs(backend: str, seqs: int = seqs, new: int = new, context: int = context) -> tuple[Any, ...]:
            batch, table = attention_batch(setting, seqs, new, context), cos_sin(setting, context)
            return setting.randn(seqs * new, width), table, batch, *kv_cache(setting, seqs, context)[0]

        yield Case(
            shape=f"{seqs} x {new} at {context}",
            # all of it is read and written, and each token reads its angles
            num_bytes=tokens * (2 * width * setting.itemsize + 4 * sizes.head_dim),
            num_ops=0,
            inputs=inputs,
            call=_call(sizes.num_heads),
        )


def _call(num_heads: int) -> Any:
    def call(
        qkv: Tensor, table: Tensor, batch: AttentionBatch, keys: Tensor, values: Tensor, *, backend: str
    ) -> Tensor:
        return rope_cache_write(qkv, table, batch, keys, values, num_heads=num_heads, backend=backend)

    return call
