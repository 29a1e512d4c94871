"""CTC collapse, beside what people write for it: numpy in a loop over the rows, and vectorised PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.ctc_collapse import ctc_collapse, ctc_collapse_reference

__all__ = ["cases", "labels_of_speech", "numpy_by_frame", "numpy_by_row", "vectorised"]

BLANK, NO_LABEL = 0, -1
FRAMES_OF_A_LABEL = 2.6
SHARE_OF_BLANKS = 0.6


def cases(setting: Setting) -> Iterator[Case]:
    for batch, frames in ((1, 185), (16, 185), (64, 750), (256, 1500)):

        def inputs(backend: str, batch: int = batch, frames: int = frames) -> tuple[Any, ...]:
            labels = labels_of_speech(batch * frames).to(setting.device)
            return labels, setting.arange(0, batch * frames + 1, frames, dtype=torch.int32), BLANK

        labels, cu_seqlens, _ = inputs("torch")
        kept = len(ctc_collapse_reference(labels, cu_seqlens, BLANK).ids)
        yield Case(
            shape=f"{batch} x {frames}",
            num_bytes=4 * (batch * frames + 2 * kept + 3 * batch + 2),
            num_ops=0,
            inputs=inputs,
            call=ctc_collapse,
            others={
                "numpy by frame": numpy_by_frame,
                "numpy by row": numpy_by_row,
                "vectorised": vectorised,
            },
            waits=True,
        )


def labels_of_speech(frames: int) -> Tensor:
    """int32: labels that last for some frames with blanks between them, as a trained head gives them."""
    stays = torch.rand(frames) > 1 / FRAMES_OF_A_LABEL
    fresh = torch.randint(1, 1 << 15, (frames,)).masked_fill_(torch.rand(frames) < SHARE_OF_BLANKS, BLANK)
    stays[:1] = False
    begin = torch.arange(frames).masked_fill_(stays, 0).cummax(0).values
    return fresh[begin].int()


def numpy_by_frame(labels: Tensor, cu_seqlens: Tensor, blank: int) -> object:
    """As decoders are often written: arrays of numpy, the rule in Python."""
    found, bounds = labels.cpu().numpy(), cu_seqlens.tolist()
    ids, frames, sizes, last = [], [], [0], []
    for start, end in itertools.pairwise(bounds):
        before = NO_LABEL
        for frame in range(start, end):
            label = found[frame]
            if label != before and label != blank:
                ids.append(label)
                frames.append(frame - start)
            before = label
        sizes.append(len(ids))
        last.append(before)
    return tuple(np.array(values, np.int32) for values in (ids, sizes, frames, last))


def numpy_by_row(labels: Tensor, cu_seqlens: Tensor, blank: int) -> object:
    """Each row vectorised."""
    found, bounds = labels.cpu().numpy(), cu_seqlens.tolist()
    ids, frames, last = [], [], []
    for start, end in itertools.pairwise(bounds):
        row = found[start:end]
        before = np.concatenate([[NO_LABEL], row[:-1]])
        (kept,) = np.nonzero((row != before) & (row != blank))
        ids.append(row[kept])
        frames.append(kept.astype(np.int32))
        last.append(row[-1] if len(row) else NO_LABEL)
    sizes = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    return np.concatenate(ids), sizes, np.concatenate(frames), np.array(last, np.int32)


def vectorised(labels: Tensor, cu_seqlens: Tensor, blank: int) -> object:
    """The whole batch vectorised, without any checks; rows must not be empty."""
    before = F.pad(labels[:-1], (1, 0))
    before[cu_seqlens[:-1]] = NO_LABEL
    kept = (labels != before) & (labels != blank)
    positions = kept.nonzero().squeeze(1)
    cu_out = torch.searchsorted(positions, cu_seqlens).int()
    frames = positions - torch.repeat_interleave(cu_seqlens[:-1], cu_out.diff(), output_size=len(positions))
    return labels[positions], cu_out, frames.int(), labels[cu_seqlens[1:] - 1]
