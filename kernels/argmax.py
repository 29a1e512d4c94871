"""The most likely id of each row of logits, the first of equals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, address, check
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["argmax", "argmax_reference", "ordinary"]


def argmax(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """logits (rows, vocab), vocab not empty -> int64 (rows)

    NaN counts as minus infinity. Raises ValueError naming the argument that does not fit.
    """
    check("logits", logits, FLOATS, ("rows", "vocab"), note=", vocab not empty")
    if logits.shape[1] == 0:
        raise ValueError(f"logits: expected (rows, vocab), vocab not empty, got {tuple(logits.shape)}")
    ids: Tensor = resolve("argmax", backend, logits.device, logits.dtype)(logits)
    return ids


@register("argmax", "cpp", is_available=cpp_available, supports=cpp_float32)
def _argmax_cpp(logits: Tensor) -> Tensor:
    from antiphon.kernels import _C

    logits = logits.contiguous()
    ids = logits.new_empty(len(logits), dtype=torch.int64)
    _C.argmax(address(logits), address(ids), logits.shape[0], logits.shape[1])
    return ids


@register("argmax", "torch")
def argmax_reference(logits: Tensor) -> Tensor:
    return ordinary(logits).argmax(-1)


def ordinary(logits: Tensor) -> Tensor:
    """`logits` with minus infinity in place of NaN."""
    return logits.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
