"""The flow's integration at a few fixed sizes, each recorded once.

A decode launches about 2,000 small kernels (ten steps of two hundred): with one utterance, a GPU waits for
the processor that launches them. Recorded, they are launched at once. But a recording has one size, so
batches are padded to the next of a few sizes, with masks that keep the padding out of the result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from antiphon.codec.batches import MAX_GRAPHS, Ladder, bucket_rows
from antiphon.codec.stopping import stoppable
from antiphon.device.cuda_graph import Capture

__all__ = ["Estimator", "GraphedEstimator", "bucket_frames"]

MAX_ELEMENTS = 1 << 14
"""Rows times frames of the largest recording. Beyond this, kernels last long enough to launch one by one."""


class Estimator(Protocol):
    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `UNet.forward`; of a `Solver`, time_bias has a row for each step, and the result is the mel."""
        ...


def bucket_frames(frames: int) -> int:
    """The next multiple of 16, of 32 from 257 on, of 64 from 513 on, and so on: at most an eighth more beyond
    128 frames, and always even, since the estimator halves them."""
    step = 16
    while frames > 16 * step:
        step *= 2
    return -(-frames // step) * step


@dataclass(frozen=True, eq=False)
class Recording:
    """Where a recording of one size reads its inputs, and what replays it."""

    x: Tensor
    """(rows, channels, frames)"""
    time_bias: Tensor
    mask: Tensor
    """(rows, 1, frames)"""
    replay: Callable[[], Tensor]


class GraphedEstimator:
    """Wraps any estimator, and is called the same way. It only adds padding, which does not change rows."""

    def __init__(self, estimator: Estimator, capture: Capture, *, max_graphs: int = MAX_GRAPHS) -> None:
        self.estimator = estimator
        self._capture = capture
        self._max_graphs = max_graphs
        self._ladder: Ladder | None = None
        self._is_closed = False
        self._recordings: OrderedDict[tuple[int, int], Recording] = OrderedDict()

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """The result (rows, channels, frames) lasts until the next call."""
        rows, _, frames = x.shape
        size = self._size(rows, frames)
        if size is None or (self._is_closed and size not in self._recordings):
            return self.estimator(x, time_bias, mask)
        recording = self._recordings.pop(size, None)
        if recording is None:
            recording = self._record(size, x, time_bias)
        self._recordings[size] = recording  # as the last used one
        while len(self._recordings) > self._max_graphs:
            self._recordings.popitem(last=False)
        recording.x[:rows, :, :frames] = x
        recording.x[:rows, :, frames:] = 0.0
        # What earlier batches left in unused rows is valid input, as good as any.
        recording.mask[:rows, :, :frames] = 1.0 if mask is None else mask
        recording.mask[:rows, :, frames:] = 0.0
        recording.mask[rows:] = 1.0  # a row without a valid frame would have a mean of 0 / 0
        recording.time_bias.copy_(time_bias)
        return recording.replay()[:rows, :, :frames]

    def use(self, ladder: Ladder) -> None:
        """From now on, record these sizes, and no others."""
        self._ladder = ladder

    def close(self) -> None:
        """From now on, record nothing more: what has no recording runs kernel by kernel."""
        self._is_closed = True

    def _size(self, rows: int, frames: int) -> tuple[int, int] | None:
        """That of the recording for a batch; None if it is to have none."""
        if self._ladder is not None:
            return self._ladder.fit(rows, frames)
        size = bucket_rows(rows), bucket_frames(frames)
        return None if size[0] * size[1] > MAX_ELEMENTS else size

    def _record(self, size: tuple[int, int], x: Tensor, time_bias: Tensor) -> Recording:
        rows, frames = size
        own, bias = x.new_zeros(rows, x.shape[1], frames), torch.zeros_like(time_bias)
        mask = x.new_ones(rows, 1, frames)
        with stoppable(lambda: False):  # stopping in the middle would leave the device recording
            return Recording(own, bias, mask, self._capture(lambda: self.estimator(own, bias, mask)))
