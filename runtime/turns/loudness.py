"""Where speech ended, of which voice activity lets go only some frames later."""

from __future__ import annotations

from collections import deque

import numpy as np

from antiphon.sound.arrays import AudioArray

__all__ = ["Loudness"]

HOPS_PER_FRAME = 4
MAX_LATE_FRAMES = 3
"""Silero's network lets go two frames late."""
FADED_DB = 40.0
"""What is this much below the loudest speech of the turn is no speech."""
NEAR_SILENCE_DB = 6.0
"""Nor is what is no louder than this above the frame that is known to be silent."""
FAINTEST_DB = -120.0
"""Below full scale."""


class Loudness:
    """How loud the last frames of a sound were, in quarters of a frame, and the loudest of a turn's speech.

    Where noise hides how speech fades, it ends where voice activity says.
    """

    def __init__(self) -> None:
        self._last_db: deque[list[float]] = deque(maxlen=MAX_LATE_FRAMES + 1)
        self._loudest_db = FAINTEST_DB
        self._quiet_db = FAINTEST_DB
        """The loudest that is no speech, since the last speech ended."""

    def add(self, frame: AudioArray, is_speech: bool) -> None:
        """The next frame, float32 (n,)."""
        levels_db = [_level_db(hop) for hop in np.array_split(frame, HOPS_PER_FRAME)]
        self._last_db.append(levels_db)
        if is_speech:
            self._loudest_db = max(self._loudest_db, *levels_db)

    def new_turn(self) -> None:
        """What was loud before does not count any more."""
        self._loudest_db = FAINTEST_DB

    def late_frames(self) -> float:
        """By how many frames voice activity was late to let go: the last frame is its first of silence."""
        *before, silent = self._last_db
        self._quiet_db = max(self._loudest_db - FADED_DB, max(silent) + NEAR_SILENCE_DB)
        levels_db = [level_db for frame in before for level_db in frame]
        for num_quiet, level_db in enumerate(reversed(levels_db)):
            if level_db > self._quiet_db:
                return num_quiet / HOPS_PER_FRAME
        return 0.0  # nothing of it is louder: it is for voice activity to say

    def is_quiet(self, samples: AudioArray) -> bool:
        """Whether samples (n,), n > 0, are no louder than silence was when speech last ended."""
        return _level_db(samples) <= self._quiet_db


def _level_db(samples: AudioArray) -> float:
    """The mean power, in decibels below full scale."""
    power = float(np.square(samples, dtype=np.float64).mean())
    return 10 * float(np.log10(max(power, 10 ** (FAINTEST_DB / 10))))
