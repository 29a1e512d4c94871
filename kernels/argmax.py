"""The most likely id of each row of logits, the first where several are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["argmax", "argmax_reference"]


def argmax(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """logits (rows, vocab), vocab not empty -> int64 (rows)"""
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits: expected (rows, vocab), vocab not empty, got {tuple(logits.shape)}")
    ids: Tensor = resolve("argmax", backend, logits.device, logits.dtype)(logits)
    return ids


@register("argmax", "cpp", is_available=cpp_available, supports=cpp_float32)
def _argmax_cpp(logits: Tensor) -> Tensor:
    from antiphon import _C

    logits = logits.contiguous()
    ids = torch.empty(len(logits), dtype=torch.int64)
    _C.argmax(logits.data_ptr(), ids.data_ptr(), logits.shape[0], logits.shape[1])
    return ids


@register("argmax", "torch")
def argmax_reference(logits: Tensor) -> Tensor:
    return logits.argmax(-1)
