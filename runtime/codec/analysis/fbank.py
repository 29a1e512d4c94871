"""Kaldi's log-mel filter bank with 80 bands, which the speaker encoder reads (`compute-fbank-feats` without
dither, on samples from -1 to 1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from antiphon.sound.arrays import AudioArray

__all__ = ["INPUT_RATE_HZ", "NUM_BANDS", "fbank"]

INPUT_RATE_HZ = 16000
NUM_BANDS = 80
FRAME = 400
HOP = 160
N_FFT = 512
PREEMPHASIS = 0.97
WINDOW_POWER = 0.85
"""A symmetric Hann window to this power is Kaldi's "povey" window."""
MIN_POWER = float(np.finfo(np.float32).eps)

LOWEST_HZ = 20.0
HIGHEST_HZ = 8000.0
# Kaldi's mel scale: 1127 ln(1 + f / 700).
MEL_FACTOR = 1127.0
MEL_CORNER_HZ = 700.0


def fbank(samples: AudioArray) -> AudioArray:
    """float32 (n,) at 16 kHz, n >= 400, to float32 (1 + (n - 400) // 160, 80).

    Only whole frames count. Each band's mean over the clip is subtracted, so that loudness and microphone
    matter little in telling who is speaking.
    """
    assert len(samples) >= FRAME, "callers bound the clip from below"
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::HOP]
    frames = windows - windows.mean(axis=1, keepdims=True)
    # The first sample of a frame stands in for the one before it.
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    shaped = (frames - PREEMPHASIS * previous) * np.hanning(FRAME) ** WINDOW_POWER
    power = np.abs(np.fft.rfft(shaped, N_FFT)) ** 2
    log = np.log(np.maximum(power[:, : N_FFT // 2] @ _filters().T, MIN_POWER))
    features: AudioArray = (log - log.mean(axis=0)).astype(np.float32)
    return features


@lru_cache(maxsize=1)
def _filters() -> np.ndarray[Any, Any]:
    """Triangles, equally spaced and straight in mel, of height 1: float64 (80, 256). The bin at 8000 Hz has
    no weight and is left out."""

    def mel(hz: Any) -> Any:
        return MEL_FACTOR * np.log(1 + hz / MEL_CORNER_HZ)

    corners = np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), NUM_BANDS + 2)[:, None]
    bins = mel(np.arange(N_FFT // 2) * (INPUT_RATE_HZ / N_FFT))
    widths = np.diff(corners, axis=0)
    rising = (bins - corners[:-2]) / widths[:-1]
    falling = (corners[2:] - bins) / widths[1:]
    filters: np.ndarray[Any, Any] = np.maximum(0, np.minimum(rising, falling))
    return filters
