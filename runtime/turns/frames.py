"""Sound cut into the frames that voice activity is told by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from antiphon.sound.arrays import AudioArray

__all__ = ["FRAME_SAMPLES", "RATE_HZ", "Frames"]

RATE_HZ = 16000
FRAME_SAMPLES = 512
"""32 ms"""


class Frames:
    """Cuts sound that comes in pieces into frames."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest: AudioArray = np.zeros(0, np.float32)

    def push(self, samples: AudioArray) -> Iterator[AudioArray]:
        """The frames that are now complete, float32 (size,) each."""
        held = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        num = len(held) // self._size
        self._rest = held[num * self._size :].astype(np.float32)  # a copy: callers fill their buffers again
        for begin in range(0, num * self._size, self._size):
            yield held[begin : begin + self._size].astype(np.float32, copy=False)

    @property
    def rest(self) -> AudioArray:
        """The beginning of the next frame."""
        return self._rest

    def reset(self) -> None:
        self._rest = np.zeros(0, np.float32)
