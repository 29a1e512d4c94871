"""Heads reduced to their likeliest ids: CTC labels and units of a step, and candidates to sample from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.bench.kernels.case import Case, Setting, weight_backend
from antiphon.kernels import argmax_head, linear

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    hidden, vocab, itemsize = setting.sizes.hidden, setting.sizes.vocab, setting.itemsize
    for rows, top_k in ((1, 1), (16, 1), (16, 32), (64, 1)):

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            weight = setting.randn(vocab, hidden, scale=hidden**-0.5)
            return setting.randn(rows, hidden), linear(weight, backend=weight_backend(backend))

        def call(x: Tensor, head: Any, *, backend: str, top_k: int = top_k) -> object:
            return argmax_head(x, head, top_k=top_k, backend=backend)

        def reference(x: Tensor, head: Any, top_k: int = top_k) -> object:
            return (x @ head.weight.T).topk(top_k)

        yield Case(
            shape=f"{rows} x {hidden} x {vocab}, top {top_k}",
            num_bytes=(vocab * hidden + rows * hidden) * itemsize + rows * top_k * 12,
            num_ops=2 * rows * hidden * vocab,
            inputs=inputs,
            call=call,
            reference=reference,
        )
