"""Fusion of a unit step: each request's speech position over its window of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from antiphon.bench.kernels.batches import cos_sin
from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import fusion_attention

__all__ = ["WINDOW", "cases"]

WINDOW = 5
POSITIONS = 4096


def cases(setting: Setting) -> Iterator[Case]:
    heads, head_dim = setting.sizes.num_heads, setting.sizes.head_dim
    for tokens in (1, 16, 64, 256):

        def inputs(backend: str, tokens: int = tokens) -> tuple[Any, ...]:
            window = [setting.randn(tokens, WINDOW, heads, head_dim) for _ in range(2)]
            full = torch.full((tokens,), WINDOW, dtype=torch.int32, device=setting.device)
            positions = setting.randint(0, POSITIONS, tokens, dtype=torch.int32)
            return (
                setting.randn(tokens, heads, head_dim),
                *window,
                full,
                positions,
                cos_sin(setting, POSITIONS),
            )

        yield Case(
            shape=f"{tokens} x {heads} x {head_dim} over {WINDOW}",
            num_bytes=tokens * heads * head_dim * (2 + 2 * WINDOW) * setting.itemsize + tokens * 4 * head_dim,
            num_ops=0,
            inputs=inputs,
            call=fusion_attention,
        )
