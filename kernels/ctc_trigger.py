"""Which units read back are a new label, so that speech asks for one more piece of text.

Other than in CTC collapse a label that is repeated across a blank is not new: the last label that was not
blank is what counts (`SpeakingState.hear`; arXiv 2506.13642, 3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.checks import (
    INT32_MAX,
    INT32_MIN,
    check_device,
    check_each_once,
    check_integer,
    check_plain,
    check_range,
    check_written,
    values_are_at_hand,
)
from antiphon.kernels.registry import on_triton, register, resolve, triton_available

__all__ = ["ctc_trigger", "ctc_trigger_reference"]


def ctc_trigger(
    labels: Tensor, last: Tensor, rows: Tensor, blank: int, *, backend: str | None = None
) -> Tensor:
    """labels int64 or int32 (n,), one unit each of n requests -> bool (n,): it is neither blank nor the last

    last: int32 (max_num_seqs,), by row of a request its last label that was not blank, at first the blank;
        updated in place, rows that are not named stay
    rows: int64 (n,), each request's row, none twice; -1 is padding, which is never new and changes nothing
    blank: the label that stands for nothing

    Raises ValueError, naming the argument, for what does not fit; labels beyond 32 bits and rows out of
    range or twice where that can be seen without waiting for the device.
    """
    blank = _check(labels, last, rows, blank)
    is_new: Tensor = resolve("ctc_trigger", backend, labels.device, labels.dtype)(labels, last, rows, blank)
    return is_new


@register("ctc_trigger", "triton", is_available=triton_available, supports=on_triton)
def _ctc_trigger_triton(labels: Tensor, last: Tensor, rows: Tensor, blank: int) -> Tensor:
    from antiphon.kernels.triton.ctc_trigger import ctc_trigger as launch

    return launch(labels, last, rows, blank)


@register("ctc_trigger", "torch")
def ctc_trigger_reference(labels: Tensor, last: Tensor, rows: Tensor, blank: int) -> Tensor:
    said = (labels != blank) & (rows >= 0)
    is_new = said & (labels != last[rows.clamp(min=0)])
    last[rows[said]] = labels[said].int()
    return is_new


def _check(labels: Tensor, last: Tensor, rows: Tensor, blank: int) -> int:
    for name, tensor, dtypes in (
        ("labels", labels, (torch.int64, torch.int32)),
        ("last", last, (torch.int32,)),
        ("rows", rows, (torch.int64,)),
    ):
        check_plain(name, tensor)
        if tensor.dtype not in dtypes or tensor.dim() != 1:
            expected = " or ".join(map(str, dtypes))
            raise ValueError(
                f"{name}: expected {expected} of one dimension, got {tensor.dtype} {tuple(tensor.shape)}"
            )
        check_device(name, tensor, "labels", labels)
    if not last.is_contiguous():
        raise ValueError(f"last: expected contiguous, got strides {last.stride()}")
    if len(rows) != len(labels):
        raise ValueError(f"rows: expected one for each of {len(labels)} labels, got {len(rows)}")
    check_written("last", last, (("labels", labels), ("rows", rows)))
    check_range("labels", labels, INT32_MIN, INT32_MAX)
    if values_are_at_hand(rows) and ((rows < -1) | (rows >= len(last))).any():
        raise ValueError(f"rows: expected -1 to {len(last) - 1}, got {rows.tolist()[:8]}")
    check_each_once("rows", rows)
    try:
        return check_integer("blank", blank, INT32_MIN, INT32_MAX)
    except ValueError:
        raise ValueError(f"blank: expected an integer, got {blank!r:.40}") from None
