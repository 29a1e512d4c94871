"""Windowed-sinc resampling with a Hann window of six zero crossings and a roll-off of 0.99, which is
torchaudio's default (after J. O. Smith, "Digital Audio Resampling"). Only taps inside the window are kept, so
rates without a common divisor cost no more than others."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray

__all__ = ["StreamingResampler", "resample"]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
BLOCK_SAMPLES = 2**12
"""Output samples made at a time: bounds the gathered windows, and keeps them in the processor's cache."""


def resample(samples: AudioArray, rate_hz: int, target_rate_hz: int) -> AudioArray:
    """float32 (n,) at `rate_hz` to float32 (ceil(n * target / rate),) at `target_rate_hz`."""
    if rate_hz == target_rate_hz:
        return samples
    stream = StreamingResampler(rate_hz, target_rate_hz)
    return np.concatenate([stream.push(samples), stream.finish()])


class StreamingResampler:
    """`resample` of audio that comes in pieces: its outputs, joined, equal that of the whole bit for bit.

    It lags by half a window, 6 zero crossings of the lower rate (0.4 ms at 16 kHz), and keeps one window.
    """

    def __init__(self, rate_hz: int, target_rate_hz: int) -> None:
        divisor = gcd(rate_hz, target_rate_hz)
        self._old, self._new = rate_hz // divisor, target_rate_hz // divisor
        self._half, self._taps = _taps(self._old, self._new)
        # Input samples [begin, num_in), which later windows need. Zeros precede the first sample.
        self._held = np.zeros(self._half, np.float32)
        self._begin = -self._half
        self._num_in = 0
        self._num_out = 0
        self._is_finished = False

    def push(self, samples: AudioArray) -> AudioArray:
        """Takes float32 (n,), n >= 0, and returns the output samples whose windows are now complete."""
        self._check_open()
        self._num_in += len(samples)
        if self._old == self._new:
            return samples
        # Output n reads input [n old // new - half, n old // new + half + 2).
        complete = -(-(self._num_in - self._half - 1) * self._new // self._old)
        return self._emit(samples, max(complete, self._num_out))

    def finish(self) -> AudioArray:
        """The remaining output samples, as if zeros followed. Nothing may be pushed after this."""
        self._check_open()
        self._is_finished = True
        if self._old == self._new:
            return np.zeros(0, np.float32)
        return self._emit(np.zeros(self._half + 1, np.float32), -(-self._num_in * self._new // self._old))

    def tail(self) -> AudioArray:
        """What `finish` would return now; more may still be pushed."""
        return copy(self).finish()  # which replaces what it holds, and writes to none of it

    def _emit(self, samples: AudioArray, until: int) -> AudioArray:
        """The next output samples up to `until`, for which the samples held and given here suffice."""
        held = np.concatenate([self._held, samples])
        out = np.empty(until - self._num_out, np.float32)
        if not len(out):
            self._held = held
            return out
        windows = np.lib.stride_tricks.sliding_window_view(held, self._taps.shape[1])
        for begin in range(self._num_out, until, BLOCK_SAMPLES):
            index = np.arange(begin, min(begin + BLOCK_SAMPLES, until))
            rows = windows[self._window_begin(index) - self._begin]
            made = np.einsum("nt,nt->n", rows, self._taps[index % self._new])
            out[begin - self._num_out :][: len(made)] = made
        begin = self._window_begin(until)
        self._held = held[begin - self._begin :].copy()
        self._begin, self._num_out = begin, until
        return out

    def _window_begin(self, index: Any) -> Any:
        return index * self._old // self._new - self._half

    def _check_open(self) -> None:
        if self._is_finished:
            raise InvalidRequest("audio: expected nothing more after the end of the audio")


@lru_cache(maxsize=4)
def _taps(old: int, new: int) -> tuple[int, AudioArray]:
    """Half the width of a window in input samples, rounded up, and for each output phase j = 0..new-1 its
    taps float32 (new, 2 half + 2), the first of which is for input j old // new - half.

    Output j lies at input position j old / new; tap i has x = b (i / old - j / new), b = 0.99 min(old, new),
    and the value cos^2(pi x / 12) sinc(x) b / old for |x| < 6.
    """
    bandwidth = ROLLOFF * min(old, new)
    half = int(np.ceil(ZERO_CROSSINGS * old / bandwidth))
    phases = np.arange(new)
    index = (phases * old // new - half)[:, None] + np.arange(2 * half + 2)
    # torchaudio rounds the phase to float32; everything else is float64.
    offset = (phases.astype(np.float32) / np.float32(new)).astype(np.float64)
    x = np.clip(bandwidth * (index / old - offset[:, None]), -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(np.pi * x / (2 * ZERO_CROSSINGS)) ** 2
    taps: AudioArray = (window * np.sinc(x) * (bandwidth / old)).astype(np.float32)
    return half, taps
