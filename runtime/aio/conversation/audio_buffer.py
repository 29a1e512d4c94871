"""The audio of a conversation: kept as long as it may still be part of a turn."""

from __future__ import annotations

from collections import deque

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray

__all__ = ["AudioBuffer"]


class AudioBuffer:
    """Samples by their position in the audio of a conversation. What nobody will ask for is let go."""

    def __init__(self, max_samples: int) -> None:
        """max_samples: what may be kept at most."""
        self.begin = 0
        """The position of the first sample that is kept."""
        self.end = 0
        """The position after the last one."""
        self._max_samples = max_samples
        self._pieces: deque[AudioArray] = deque()

    def __len__(self) -> int:
        return self.end - self.begin

    def push(self, samples: AudioArray) -> None:
        """Add mono float32 (n,). InvalidRequest, and nothing is added, for more than may be kept."""
        if len(self) + len(samples) > self._max_samples:
            raise InvalidRequest(
                f"audio: expected at most {self._max_samples} samples before a commit, got more"
            )
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)

    def read(self, begin: int, end: int) -> AudioArray:
        """The samples of [begin, end), as far as they are kept."""
        parts: list[AudioArray] = []
        at = self.begin
        for piece in self._pieces:
            first, last = max(begin - at, 0), min(end - at, len(piece))
            if first < last:
                parts.append(piece[first:last])
            at += len(piece)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def forget(self, end: int) -> None:
        """Let go of what is before a position."""
        while self._pieces and self.begin + len(self._pieces[0]) <= end:
            self.begin += len(self._pieces.popleft())
        if self._pieces and self.begin < end:
            self._pieces[0] = self._pieces[0][end - self.begin :].copy()
            self.begin = end
