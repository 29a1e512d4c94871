"""Windowed-sinc resampling with a Hann window of six zero crossings and a roll-off of 0.99, which is
torchaudio's default (after J. O. Smith, "Digital Audio Resampling"). Only taps inside the window are kept, so
that rates without a common divisor cost no more than others."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from antiphon.codec.arrays import AudioArray

__all__ = ["resample"]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
BLOCK_SAMPLES = 2**16
"""Samples made at a time: bounds the gathered windows."""


def resample(samples: AudioArray, rate_hz: int, target_rate_hz: int) -> AudioArray:
    """float32 (n,) at `rate_hz` to float32 (ceil(n * target / rate),) at `target_rate_hz`."""
    if rate_hz == target_rate_hz:
        return samples
    divisor = gcd(rate_hz, target_rate_hz)
    old, new = rate_hz // divisor, target_rate_hz // divisor
    starts, taps = _taps(old, new)
    total = -(-new * len(samples) // old)
    left = -int(starts[0])
    last_block = (total - 1) // new
    right = max(last_block * old + int(starts[-1]) + taps.shape[1] - len(samples), 0)
    padded = np.pad(samples, (left, right))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
    out = np.empty(total, np.float32)
    for begin in range(0, total, BLOCK_SAMPLES):
        block, phase = np.divmod(np.arange(begin, min(begin + BLOCK_SAMPLES, total)), new)
        rows = windows[block * old + starts[phase] + left]
        out[begin : begin + len(rows)] = np.einsum("nt,nt->n", rows, taps[phase])
    return out


@lru_cache(maxsize=4)
def _taps(old: int, new: int) -> tuple[np.ndarray[Any, Any], AudioArray]:
    """For each output phase j = 0..new-1: where its window starts, counted from the block's first input
    sample, and its taps float32 (new, taps).

    Output j lies at input position j old / new; tap i has x = b (i / old - j / new), b = 0.99 min(old, new),
    and the value cos^2(pi x / 12) sinc(x) b / old for |x| < 6.
    """
    bandwidth = ROLLOFF * min(old, new)
    half = int(np.ceil(ZERO_CROSSINGS * old / bandwidth))
    phases = np.arange(new)
    starts = phases * old // new - half
    index = starts[:, None] + np.arange(2 * half + 2)
    # torchaudio rounds the phase to float32 on the way; all else is float64.
    offset = (phases.astype(np.float32) / np.float32(new)).astype(np.float64)
    x = np.clip(bandwidth * (index / old - offset[:, None]), -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(np.pi * x / (2 * ZERO_CROSSINGS)) ** 2
    taps: AudioArray = (window * np.sinc(x) * (bandwidth / old)).astype(np.float32)
    return starts, taps
