"""Whether a recording holds speech at all: a cheap test that recognizes noise, hum and silence.

Speech swells and fades in bands of frequency, by tens of decibels within fractions of a second; noise and hum
do not. So if no four of 16 bands swell above their usual level for a tenth of a second, nobody is speaking.
Anything that swells as speech does (music, a slamming door) is taken for speech: the test must not miss any.

Measured: noise (white, pink, brown; 1 s to 300 s) swells by at most 4.6 dB at 1 s and 7.2 dB at 300 s, hum
and tones not at all; spoken questions of 1 to 8 s by at least 33 dB, or 11 dB under noise as loud as
themselves (0 dB).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from antiphon.sound.arrays import AudioArray

__all__ = ["SpeechActivity", "has_speech"]

HOP_S = 0.01
WINDOW_S = 0.025
NUM_BANDS = 16
BAND_HZ = (200.0, 4000.0)
SMOOTHED_HOPS = 5
SWELL_HOPS = 10
NUM_SWELLING = 4
SWELL_DB = 6.0
SWELL_DB_PER_DECADE = 0.9
"""Added for each tenfold length: the longer noise lasts, the higher its highest swell."""
SHORTEST_S = 0.3
"""Anything shorter may be a single vowel, so only silence counts as no speech."""
FAINTEST = 1e-4
"""Half the span from the lowest to the highest sample (-80 dB); less is silence."""
BLOCK_WINDOWS = 1024


class SpeechActivity:
    """Detects speech in sound that comes in pieces. Keeps 16 numbers for each hundredth of a second."""

    def __init__(self, rate_hz: int) -> None:
        self._hop = max(1, round(HOP_S * rate_hz))
        self._size = max(2, round(WINDOW_S * rate_hz))
        self._window = np.hanning(self._size).astype(np.float32)
        hz = np.fft.rfftfreq(self._size, 1 / rate_hz)
        edges = np.geomspace(BAND_HZ[0], min(BAND_HZ[1], rate_hz / 2), NUM_BANDS + 1)
        *begins, self._end = np.unique(np.searchsorted(hz, edges))
        self._begins = np.array(begins, np.intp)
        """Where the bands that hold a bin begin; each ends where the next begins."""
        self._rate_hz = rate_hz
        self._rest: AudioArray = np.zeros(0, np.float32)
        self._powers: list[np.ndarray[Any, Any]] = []
        self._num_samples = 0
        self._low, self._high = np.inf, -np.inf

    def push(self, samples: AudioArray) -> None:
        """Takes the next samples, mono float32 (n,)."""
        if not len(samples):
            return
        self._num_samples += len(samples)
        self._low, self._high = min(self._low, samples.min()), max(self._high, samples.max())
        held = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        num = max(0, (len(held) - self._size) // self._hop + 1)
        if num:
            windows = np.lib.stride_tricks.sliding_window_view(held, self._size)[:: self._hop]
            for begin in range(0, num, BLOCK_WINDOWS):
                spectrum = np.fft.rfft(windows[begin : begin + BLOCK_WINDOWS] * self._window)
                powers = (np.abs(spectrum) ** 2).astype(np.float32)
                # Not a product of matrices: for that, BLAS wakes threads, which then spin for 30 ms on the
                # cores that the next network wants.
                self._powers.append(np.add.reduceat(powers[:, : self._end], self._begins, axis=1))
        self._rest = held[num * self._hop :].copy()

    def has_speech(self) -> bool:
        """Whether there was any speech in the sound so far."""
        if self._high - self._low < 2 * FAINTEST:
            return False
        seconds = self._num_samples / self._rate_hz
        if seconds < SHORTEST_S or len(self._begins) < NUM_SWELLING:
            return True
        return bool(self._swell_db() >= SWELL_DB + SWELL_DB_PER_DECADE * np.log10(max(1.0, seconds)))

    def _swell_db(self) -> float:
        """How far the bands that swell most rise, for the length of a short syllable, above the level that
        they exceed three quarters of the time."""
        powers = np.concatenate(self._powers).astype(np.float64)
        powers += 1e-9 * powers.mean()  # -90 dB: below that there is only rounding
        sums = np.cumsum(np.concatenate([np.zeros((1, powers.shape[1])), powers]), axis=0)
        levels = np.sort(
            10 * np.log10(np.maximum(sums[SMOOTHED_HOPS:] - sums[:-SMOOTHED_HOPS], 1e-30)), axis=0
        )
        highest = levels[-min(SWELL_HOPS, len(levels) // 4 + 1)]
        swells = np.sort(highest - levels[len(levels) // 4])
        return float(swells[-NUM_SWELLING:].mean())


def has_speech(samples: AudioArray, rate_hz: int) -> bool:
    """Whether mono float32 (n,) holds any speech."""
    activity = SpeechActivity(rate_hz)
    activity.push(samples)
    return activity.has_speech()
