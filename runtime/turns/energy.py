"""Voice activity without a network: how far bands of frequency swell above their usual level.

As in `antiphon.sound.activity`: speech swells by tens of decibels in several bands at a time, noise and hum
do not. Here the usual level is followed as the sound comes in, so a noise that begins counts as speech until
it has become usual, and so does anything that swells as speech does (music, a slamming door).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from antiphon.sound.arrays import AudioArray
from antiphon.turns.frames import FRAME_SAMPLES, RATE_HZ, Frames

__all__ = ["EnergyActivity"]

NUM_BANDS = 10
BAND_HZ = (200.0, 4000.0)
NUM_SWELLING = 4
EVEN_SWELL_DB = 6.5
"""A swell that is as likely speech as not."""
DB_PER_NAT = 2.0
"""A swell higher by this multiplies the odds of speech by e."""
FAINTEST_DB = -85.0
"""Below full scale; whatever is fainter, in each band, is silence."""
SMOOTHING = 0.5
"""Share of the frames before in a band's level."""
RISE_DB_PER_S = 3.0
FALL = 0.25
"""Share of the way that the usual level falls in a frame when the sound is fainter."""
SETTLING_FRAMES = 8
"""While the sound is new, its usual level is its mean."""


class EnergyActivity:
    """A `VoiceActivity` that needs nothing but numpy."""

    rate_hz = RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(self) -> None:
        self._frames = Frames(FRAME_SAMPLES)
        self._window = np.hanning(FRAME_SAMPLES)
        hz = np.fft.rfftfreq(FRAME_SAMPLES, 1 / RATE_HZ)
        edges = np.geomspace(*BAND_HZ, NUM_BANDS + 1)
        self._bands = ((hz[:, None] >= edges[:-1]) & (hz[:, None] < edges[1:])).astype(np.float64)
        # A sine of amplitude 1 has the power (sum of the window / 2)^2 in its band.
        self._full_scale = (self._window.sum() / 2) ** 2
        self._clear()

    def push(self, samples: AudioArray) -> list[float]:
        return [self._probability(frame) for frame in self._frames.push(samples)]

    def reset(self) -> None:
        self._frames.reset()
        self._clear()

    def _clear(self) -> None:
        self._level_db: np.ndarray[Any, Any] | None = None
        self._usual_db = np.zeros(NUM_BANDS)
        self._num_frames = 0

    def _probability(self, frame: AudioArray) -> float:
        spectrum = np.fft.rfft(frame.astype(np.float64) * self._window)
        power = np.abs(spectrum) ** 2 @ self._bands / self._full_scale
        level_db = np.maximum(10 * np.log10(np.maximum(power, 1e-20)), FAINTEST_DB)
        raw_db = level_db
        if self._level_db is not None:
            level_db = SMOOTHING * self._level_db + (1 - SMOOTHING) * level_db
        self._level_db = level_db
        self._num_frames += 1
        change_db = level_db - self._usual_db
        swells_db = np.minimum(raw_db, level_db) - self._usual_db  # a click is over when its frame is
        swell_db = float(np.sort(swells_db)[-NUM_SWELLING:].mean())
        if self._num_frames <= SETTLING_FRAMES:
            self._usual_db = self._usual_db + change_db / self._num_frames
            if self._num_frames == 1:
                return 0.0
        else:
            rise_db = RISE_DB_PER_S * FRAME_SAMPLES / RATE_HZ
            self._usual_db = self._usual_db + np.where(
                change_db > 0, np.minimum(change_db, rise_db), FALL * change_db
            )
        return 1 / (1 + math.exp(min(50.0, (EVEN_SWELL_DB - swell_db) / DB_PER_NAT)))
