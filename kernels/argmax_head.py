"""The likeliest ids of a head, argmax(h W^T), without its logits in memory: they are reduced as they come.

Greedy decoding and CTC labels need only a few numbers per row; the logits of 64 rows over 128 thousand ids
are 33 MB that would be written and read back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.argmax import ordinary
from antiphon.kernels.checks import (
    FLOATS,
    address,
    check,
    check_device,
    check_each_once,
    check_integer,
    check_plain,
    check_range,
)
from antiphon.kernels.linear import (
    CppLinear,
    Linear,
    TorchLinear,
    check_linear,
    quantized_weight,
    widens,
    with_dense_rows,
)
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton_floats,
    register,
    resolve,
    triton_available,
)

__all__ = ["argmax_head", "argmax_head_reference", "plain_weight", "triton_weight"]

MAX_CPP_TOP_K = 64  # beyond this, inserting them one by one is no faster than a sort
MAX_TRITON_TOP_K = 64  # for each of these it has up to 256 candidates


def argmax_head(
    hidden: Tensor,
    head: Linear,
    *,
    top_k: int = 1,
    subset: Tensor | None = None,
    backend: str | None = None,
    checked: bool = True,
) -> tuple[Tensor, Tensor]:
    """hidden (rows, n), head (n, vocab) -> ids int64 (rows, top_k), their logits float32 (rows, top_k)

    Logits descend; of equal ones the lower id comes first, and NaN counts as minus infinity. In 16 bits a
    backend may or may not round logits before it compares them, so backends may differ where two logits
    round to the same number.
    subset: int64 (m,), distinct rows of the head's weight in any order; only they compete, and ids are still
        the head's. A row that is out of range or given twice is an error where that can be seen without
        waiting for the device.
    checked: False skips the checks, for callers whose arguments fit by construction.

    Raises ValueError naming the argument that does not fit.
    """
    if checked:
        top_k = _check(hidden, head, top_k, subset)
    pick = resolve("argmax_head", backend, hidden.device, hidden.dtype, hidden, _learned(head))
    found: tuple[Tensor, Tensor] = pick(hidden, head, top_k, subset)
    return found


@register("argmax_head", "cpp", is_available=cpp_available, supports=cpp_float32)
def _argmax_head_cpp(
    hidden: Tensor, head: Linear, top_k: int, subset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The logits equal the head's to the last bit."""
    from antiphon.kernels import _C

    if not isinstance(head, CppLinear) or top_k > MAX_CPP_TOP_K:
        return argmax_head_reference(hidden, head, top_k, subset)
    hidden = with_dense_rows(hidden)
    subset = subset.contiguous() if subset is not None else None
    rows = hidden.shape[0]
    ids, logits = hidden.new_empty(rows, top_k, dtype=torch.int64), hidden.new_empty(rows, top_k)
    _C.argmax_head(
        address(hidden),
        head.packed,
        address(subset) if subset is not None else 0,
        address(ids),
        address(logits),
        rows,
        head.in_features,
        head.out_features,
        hidden.stride(0),
        top_k,
        len(subset) if subset is not None else 0,
    )
    return ids, logits


@register("argmax_head", "triton", is_available=triton_available, supports=on_triton_floats)
def _argmax_head_triton(
    hidden: Tensor, head: Linear, top_k: int, subset: Tensor | None
) -> tuple[Tensor, Tensor]:
    weight = triton_weight(hidden, head)
    if weight is None or top_k > MAX_TRITON_TOP_K:
        return argmax_head_reference(hidden, head, top_k, subset)
    from antiphon.kernels.triton.argmax_head import argmax_head as launch

    return launch(hidden, weight, top_k, subset)


@register("argmax_head", "torch")
def argmax_head_reference(
    hidden: Tensor, head: Linear, top_k: int = 1, subset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logits = ordinary(at_least_float32(head(hidden)))
    if subset is not None:
        subset = subset.sort().values  # so that of equal logits the lower id comes first
        logits = logits[:, subset]
    if top_k == 1:
        ids = logits.argmax(-1, keepdim=True)
        found = logits.gather(1, ids)
    else:
        found, ids = logits.sort(dim=-1, descending=True, stable=True)
        found, ids = found[:, :top_k].contiguous(), ids[:, :top_k].contiguous()
    return ids if subset is None else subset[ids], found


def plain_weight(head: Linear) -> Tensor | None:
    """The head's weight (vocab, n), if the head is a product with that weight and nothing more."""
    return head.weight if isinstance(head, TorchLinear) else None


def triton_weight(hidden: Tensor, head: Linear) -> Tensor | QuantizedWeight | None:
    """What the Triton kernels multiply `hidden` with, if that is all the head does."""
    quantized = quantized_weight(head)
    if quantized is not None:
        return quantized
    weight = plain_weight(head)  # the head itself refuses another dtype
    return weight if weight is not None and weight.dtype == hidden.dtype else None


def _learned(head: Linear) -> Tensor | None:
    weight = getattr(head, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def check_head(hidden: Tensor, head: Linear) -> None:
    """Checks that hidden (rows, n) is what this head reads."""
    check_linear("head", head)
    check("hidden", hidden, FLOATS, ("rows", head.in_features))
    weight = head.panels if isinstance(head, CppLinear) else plain_weight(head)
    if weight is not None:
        is_float32 = isinstance(head, CppLinear) or widens(hidden, weight)
        dtype = torch.float32 if is_float32 else weight.dtype
        check("hidden", hidden, dtype, ("rows", head.in_features), ("the head", weight))
    elif (quantized := quantized_weight(head)) is not None:
        check_device("hidden", hidden, "the head", quantized.values)


def _check(hidden: Tensor, head: Linear, top_k: int, subset: Tensor | None) -> int:
    check_head(hidden, head)
    competing = head.out_features
    if subset is not None:
        check_plain("subset", subset)
        if subset.dtype != torch.int64 or subset.dim() != 1 or subset.device != hidden.device:
            raise ValueError(
                f"subset: expected int64 of one dimension on {hidden.device}, "
                f"got {subset.dtype} {tuple(subset.shape)} on {subset.device}"
            )
        competing = len(subset)
        try:
            check_range("subset", subset, 0, head.out_features - 1)
        except ValueError:
            competing = 0
        if not competing:
            raise ValueError(f"subset: expected rows of the head, 0 to {head.out_features - 1}, at least one")
        check_each_once("subset", subset)
    try:
        return check_integer("top_k", top_k, 1, competing)
    except ValueError:
        raise ValueError(f"top_k: expected 1 to the {competing} that compete, got {top_k!r:.40}") from None
