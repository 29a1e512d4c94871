"""New labels while speaking; each request is a lane, so that reading and writing its row is no race."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["ctc_trigger"]

BLOCK = 128


def ctc_trigger(labels: Tensor, last: Tensor, rows: Tensor, blank: int) -> Tensor:
    labels, rows = labels.contiguous(), rows.contiguous()
    is_new = torch.empty_like(labels, dtype=torch.bool)
    if count := len(labels):
        _trigger_kernel[(triton.cdiv(count, BLOCK),)](labels, last, rows, is_new, count, blank, BLOCK=BLOCK)
    return is_new


@triton.jit
def _trigger_kernel(label_ptr, last_ptr, row_ptr, is_new_ptr, count, blank, BLOCK: tl.constexpr):
    """is_new = label is neither blank nor last[row]; last[row] = label where it is not blank"""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(row_ptr + i, mask=i < count, other=-1)  # -1: padding
    label = tl.load(label_ptr + i, mask=i < count, other=0)
    is_said = (row >= 0) & (label != blank)
    before = tl.load(last_ptr + row, mask=row >= 0, other=0)
    tl.store(is_new_ptr + i, is_said & (label != before), mask=i < count)
    tl.store(last_ptr + row, label.to(tl.int32), mask=is_said)
