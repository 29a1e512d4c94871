"""Keys and values of new text for the windows of all top layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from antiphon.bench.kernels.batches import cos_sin
from antiphon.bench.kernels.case import Case, Setting
from antiphon.bench.kernels.fusion_attention import WINDOW
from antiphon.kernels import fusion_cache_write

__all__ = ["cases"]

POSITIONS = 512


def cases(setting: Setting) -> Iterator[Case]:
    sizes = setting.sizes
    width = sizes.num_heads * sizes.head_dim
    for tokens in (1, 16, 64):

        def inputs(backend: str, tokens: int = tokens) -> tuple[Any, ...]:
            cache = setting.randn(tokens, WINDOW, sizes.num_top_layers, 2, width)
            slots = setting.arange(tokens) * WINDOW
            positions = setting.randint(0, POSITIONS, tokens, dtype=torch.int32)
            kv = setting.randn(tokens, sizes.num_top_layers, 2, width)
            return kv, slots, positions, cos_sin(setting, POSITIONS), cache

        yield Case(
            shape=f"{tokens} x {sizes.num_top_layers} x 2 x {width}",
            num_bytes=tokens * (4 * sizes.num_top_layers * width * setting.itemsize + 4 * sizes.head_dim),
            num_ops=0,
            inputs=inputs,
            call=_call(sizes.head_dim),
        )


def _call(head_dim: int) -> Any:
    def call(
        kv: Tensor, slots: Tensor, positions: Tensor, table: Tensor, cache: Tensor, *, backend: str
    ) -> None:
        fusion_cache_write(kv, slots, positions, table, cache, head_dim=head_dim, backend=backend)

    return call
