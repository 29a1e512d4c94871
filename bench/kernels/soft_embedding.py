"""Soft text embeddings of the frames of spoken prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.bench.kernels.case import Case, Setting, weight_backend
from antiphon.kernels import linear, soft_embedding

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    hidden, vocab = setting.sizes.hidden, setting.sizes.text_vocab
    for rows in (16, 185, 740):  # 185 units are a question of 7 s

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            head = linear(setting.randn(vocab, hidden, scale=hidden**-0.5), backend=weight_backend(backend))
            return setting.randn(rows, hidden), head, setting.randn(vocab, hidden)

        yield Case(
            shape=f"{rows} x {hidden} x {vocab}",
            num_bytes=2 * (vocab + rows) * hidden * setting.itemsize + 8 * rows,
            num_ops=4 * rows * hidden * vocab,
            inputs=inputs,
            call=soft_embedding,
            reference=_reference,
        )


def _reference(hidden: Tensor, head: Any, embedding: Tensor) -> tuple[Tensor, Tensor]:
    logits = hidden @ head.weight.T
    return logits.float().softmax(-1).to(hidden.dtype) @ embedding, logits.argmax(-1)
