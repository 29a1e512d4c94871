"""The likeliest id of given logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.argmax import argmax, argmax_reference

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    vocab = setting.sizes.vocab
    for rows in (1, 16, 64):

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            return (setting.randn(rows, vocab),)

        yield Case(
            shape=f"{rows} x {vocab}",
            num_bytes=rows * (vocab * setting.itemsize + 8),
            num_ops=0,
            inputs=inputs,
            call=argmax,
            reference=argmax_reference,
        )
