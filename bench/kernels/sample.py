"""Picking ids from logits by temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import sample

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    vocab = setting.sizes.vocab
    for rows, top_k, top_p in ((1, 0, 0.9), (16, 0, 0.9), (16, 50, 1.0), (64, 0, 1.0)):

        def inputs(
            backend: str, rows: int = rows, top_k: int = top_k, top_p: float = top_p
        ) -> tuple[Any, ...]:
            def column(value: float, dtype: torch.dtype) -> torch.Tensor:
                return torch.full((rows,), value, dtype=dtype, device=setting.device)

            seeds = setting.randint(0, 1 << 40, rows)
            settings = column(0.8, torch.float32), column(top_k, torch.int32), column(top_p, torch.float32)
            return setting.randn(rows, vocab, scale=3.0), *settings, seeds, column(7, torch.int64)

        yield Case(
            shape=f"{rows} x {vocab}, k {top_k or 'all'}, p {top_p:g}",
            num_bytes=rows * (vocab * setting.itemsize + 8),
            num_ops=0,
            inputs=inputs,
            call=sample,
        )
