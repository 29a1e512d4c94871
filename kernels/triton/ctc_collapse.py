"""CTC collapse, one program per row: the first pass counts what is kept, the second writes it to its place.

Two passes rather than one with look-back between programs: a frame is 4 bytes and stands for 40 ms of speech,
so only launches count, and this way no program waits for another one, which might not be running.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["ctc_collapse"]

BLOCK = 1024
BLOCK_ROWS = 128


def ctc_collapse(
    labels: Tensor, cu_seqlens: Tensor, blank: int, prev: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ids and frames, as long as the labels, of which the first cu_out[-1] are filled; cu_out; last.

    Whatever is in `cu_seqlens`, nothing outside the tensors is read or written.
    """
    labels, cu_seqlens = labels.contiguous(), cu_seqlens.contiguous()
    prev = prev.contiguous() if prev is not None else None
    ids, frames = torch.empty_like(labels), torch.empty_like(labels)
    cu_out, last = torch.zeros_like(cu_seqlens), torch.empty_like(cu_seqlens[1:])
    counts = torch.empty_like(last)
    if batch := len(last):
        total = len(labels)
        _count_kernel[(batch,)](labels, cu_seqlens, prev, counts, last, total, blank, BLOCK=BLOCK)
        _write_kernel[(batch,)](
            labels,
            cu_seqlens,
            prev,
            counts,
            ids,
            frames,
            cu_out,
            total,
            blank,
            BLOCK=BLOCK,
            BLOCK_ROWS=BLOCK_ROWS,
        )
    return ids, frames, cu_out, last


@triton.jit
def _row(cu_seqlens_ptr, prev_ptr, row, total):
    """Where the row begins and ends, and the label before it, -1 where there is none."""
    start = tl.maximum(tl.load(cu_seqlens_ptr + row), 0)
    end = tl.minimum(tl.load(cu_seqlens_ptr + row + 1), total)
    if prev_ptr is None:
        before = -1
    else:
        before = tl.load(prev_ptr + row)
    return start, end, before


@triton.jit
def _frames(label_ptr, position, start, end, before, blank):
    """The labels at `position`, and whether each is kept."""
    inside = position < end
    label = tl.load(label_ptr + position, mask=inside, other=0)
    previous = tl.load(label_ptr + position - 1, mask=inside & (position > start), other=0)
    previous = tl.where(position == start, before, previous)
    return label, inside & (label != previous) & (label != blank)


@triton.jit(do_not_specialize=["total", "blank"])
def _count_kernel(
    label_ptr, cu_seqlens_ptr, prev_ptr, count_ptr, last_ptr, total, blank, BLOCK: tl.constexpr
):
    """count[row] = the number of labels that are kept; last[row]"""
    row = tl.program_id(0)
    start, end, before = _row(cu_seqlens_ptr, prev_ptr, row, total)
    count = 0
    for first in range(start, end, BLOCK):
        position = first + tl.arange(0, BLOCK).to(tl.int64)
        _, kept = _frames(label_ptr, position, start, end, before, blank)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.store(count_ptr + row, count)
    tl.store(last_ptr + row, tl.load(label_ptr + end - 1, mask=end > start, other=before))


@triton.jit(do_not_specialize=["total", "blank"])
def _write_kernel(
    label_ptr,
    cu_seqlens_ptr,
    prev_ptr,
    count_ptr,
    id_ptr,
    frame_ptr,
    cu_out_ptr,
    total,
    blank,
    BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """cu_out[row + 1], and from cu_out[row] on the kept labels and their frames"""
    row = tl.program_id(0)
    start, end, before = _row(cu_seqlens_ptr, prev_ptr, row, total)
    offset = 0
    for first_row in range(0, row, BLOCK_ROWS):
        earlier = first_row + tl.arange(0, BLOCK_ROWS)
        offset += tl.sum(tl.load(count_ptr + earlier, mask=earlier < row, other=0), 0)
    tl.store(cu_out_ptr + row + 1, offset + tl.load(count_ptr + row))
    for first in range(start, end, BLOCK):
        position = first + tl.arange(0, BLOCK).to(tl.int64)
        label, kept = _frames(label_ptr, position, start, end, before, blank)
        kept_so_far = tl.cumsum(kept.to(tl.int32), 0)
        at = offset + kept_so_far - 1
        tl.store(id_ptr + at, label, mask=kept & (at < total))
        tl.store(frame_ptr + at, (position - start).to(tl.int32), mask=kept & (at < total))
        offset += tl.sum(kept.to(tl.int32), 0)
