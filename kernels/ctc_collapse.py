"""CTC collapse: from one label per frame to the ids that were said.

B(labels) of Graves et al. 2006 (Connectionist Temporal Classification, section 3.1): labels that equal the
label of the frame before are dropped, then blanks are, so `a a blank a b` becomes `a a b`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from antiphon.kernels.checks import INT32_MAX, INT32_MIN, address, check_device, check_integer, check_plain
from antiphon.kernels.registry import (
    cpp_available,
    cuda_library_available,
    on_cpu,
    on_cuda,
    on_triton,
    register,
    resolve,
    triton_available,
)

__all__ = ["CollapsedLabels", "ctc_collapse", "ctc_collapse_reference"]

NO_LABEL = -1
MAX_LABELS = INT32_MAX - (1 << 16)
"""Kernels count in 32 bits, and some count up to a tile past the last label."""


class CollapsedLabels(NamedTuple):
    """What `ctc_collapse` returns; all int32."""

    ids: Tensor
    """(n,)"""
    cu_out: Tensor
    """(batch + 1,): row r is ids[cu_out[r] : cu_out[r + 1]]."""
    frames: Tensor
    """(n,): the position in its row where each id was first heard."""
    last: Tensor
    """(batch,): the last label of each row, the `prev` of its next chunk."""


def ctc_collapse(
    labels: Tensor,
    cu_seqlens: Tensor,
    blank: int,
    prev: Tensor | None = None,
    *,
    backend: str | None = None,
) -> CollapsedLabels:
    """Collapses rows of CTC labels.

    labels: int32 (total,), the rows one after the other, not negative
    cu_seqlens: int32 (batch + 1,): row r is labels[cu_seqlens[r] : cu_seqlens[r + 1]]; rows may be empty
    blank: the label that stands for nothing
    prev: int32 (batch,), the last label, blank or not, of the row's previous chunk; -1 if there was none.
        None is -1 for every row. A row given in chunks comes out as if given whole. An empty row's `last`
        is its `prev`.

    Raises ValueError naming the argument that does not fit.
    """
    blank = _check_kinds(labels, cu_seqlens, blank, prev)
    collapse = resolve("ctc_collapse", backend, labels.device, labels.dtype)
    collapsed: CollapsedLabels = collapse(labels, cu_seqlens, blank, prev)
    return collapsed


@register("ctc_collapse", "cpp", is_available=cpp_available, supports=on_cpu)
def _ctc_collapse_cpp(labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None) -> CollapsedLabels:
    from antiphon.kernels import _C

    labels, cu_seqlens = labels.contiguous(), cu_seqlens.contiguous()
    total, batch = labels.numel(), cu_seqlens.numel() - 1
    if batch < 0 or (prev is not None and prev.numel() != batch):
        _check_bounds(labels, cu_seqlens, prev, cu_seqlens.tolist())
    prev = prev.contiguous() if prev is not None else None
    ids, frames = labels.new_empty(total), labels.new_empty(total)
    cu_out, last = labels.new_empty(batch + 1), labels.new_empty(batch)
    n = _C.ctc_collapse(
        address(labels),
        address(cu_seqlens),
        address(prev) if prev is not None else 0,
        address(ids),
        address(frames),
        address(cu_out),
        address(last),
        batch,
        total,
        blank,
    )
    if n < 0:
        _check_bounds(labels, cu_seqlens, prev, cu_seqlens.tolist())
    return CollapsedLabels(ids.resize_(n), cu_out, frames.resize_(n), last)


@register("ctc_collapse", "cuda", is_available=cuda_library_available, supports=on_cuda)
def _ctc_collapse_cuda(
    labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None
) -> CollapsedLabels:
    from antiphon.kernels.cuda.ctc_collapse import ctc_collapse as launch

    _check_rows(labels, cu_seqlens, prev)
    return _sized(labels, cu_seqlens, *launch(labels, cu_seqlens, blank, prev))


@register("ctc_collapse", "triton", is_available=triton_available, supports=on_triton)
def _ctc_collapse_triton(
    labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None
) -> CollapsedLabels:
    from antiphon.kernels.triton.ctc_collapse import ctc_collapse as launch

    _check_rows(labels, cu_seqlens, prev)
    return _sized(labels, cu_seqlens, *launch(labels, cu_seqlens, blank, prev))


@register("ctc_collapse", "torch")
def ctc_collapse_reference(
    labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None = None
) -> CollapsedLabels:
    """`ctc_collapse` in plain PyTorch, on any device."""
    _check_bounds(labels, cu_seqlens, prev, cu_seqlens.tolist())
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    if prev is None:
        prev = torch.full_like(cu_seqlens[1:], NO_LABEL)
    filled = ends > starts

    before = labels.roll(1)
    before[starts[filled]] = prev[filled]
    kept = (labels != before) & (labels != blank)
    positions = kept.nonzero().squeeze(1)
    rows = torch.searchsorted(ends, positions, right=True)

    num_kept_before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    last = prev.clone()
    last[filled] = labels[ends[filled] - 1]
    return CollapsedLabels(
        ids=labels[positions],
        cu_out=num_kept_before[cu_seqlens.long()].int(),
        frames=(positions - starts[rows]).int(),
        last=last,
    )


def _check_kinds(labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None) -> int:
    """All that can be checked without reading the tensors. Fast: one request collapses in microseconds."""
    for name, tensor in (("labels", labels), ("cu_seqlens", cu_seqlens), ("prev", prev)):
        if tensor is None and name == "prev":
            continue
        check_plain(name, tensor)
        assert tensor is not None
        if tensor.dtype != torch.int32 or tensor.dim() != 1:
            raise ValueError(
                f"{name}: expected int32 of one dimension, got {tensor.dtype} {tuple(tensor.shape)}"
            )
        check_device(name, tensor, "labels", labels)
    if labels.numel() > MAX_LABELS:
        raise ValueError(f"labels: expected at most {MAX_LABELS}, got {labels.numel()}")
    try:
        return check_integer("blank", blank, INT32_MIN, INT32_MAX)
    except ValueError:
        raise ValueError(f"blank: expected a 32-bit integer, got {blank!r:.40}") from None


def _check_rows(labels: Tensor, cu_seqlens: Tensor, prev: Tensor | None) -> None:
    """The sizes that a GPU kernel takes on trust. It stays within the labels whatever the bounds say."""
    if not cu_seqlens.numel() or (prev is not None and prev.numel() != cu_seqlens.numel() - 1):
        _check_bounds(labels, cu_seqlens, prev, cu_seqlens.tolist())


def _sized(
    labels: Tensor, cu_seqlens: Tensor, ids: Tensor, frames: Tensor, cu_out: Tensor, last: Tensor
) -> CollapsedLabels:
    """Waits for the device once, for the size of the result, and checks the bounds on that occasion."""
    *bounds, n = torch.cat([cu_seqlens, cu_out[-1:]]).tolist()
    _check_bounds(labels, cu_seqlens, None, bounds)
    return CollapsedLabels(ids[:n], cu_out, frames[:n], last)


def _check_bounds(labels: Tensor, cu_seqlens: Tensor, prev: Tensor | None, bounds: list[int]) -> None:
    """bounds: the values of cu_seqlens"""
    if not bounds or bounds[0] != 0 or bounds[-1] != labels.numel() or bounds != sorted(bounds):
        raise ValueError(
            f"cu_seqlens: expected to rise from 0 to the {labels.numel()} labels, got {_shorten(bounds)}"
        )
    if prev is not None and prev.numel() != len(bounds) - 1:
        raise ValueError(f"prev: expected one label for each of {len(bounds) - 1} rows, got {prev.numel()}")


def _shorten(bounds: list[int]) -> str:
    return str(bounds) if len(bounds) <= 8 else f"[{bounds[0]}, {bounds[1]}, ..., {bounds[-1]}]"
