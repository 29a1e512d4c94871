"""Kaldi's log-mel filter bank with 80 bands, which the speaker encoder reads (`compute-fbank-feats` without
dither, on samples from -1 to 1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.kernels.threads import openmp_threads
from antiphon.sound.arrays import AudioArray

__all__ = ["INPUT_RATE_HZ", "NUM_BANDS", "fbank"]

INPUT_RATE_HZ = 16000
NUM_BANDS = 80
FRAME = 400
HOP = 160
N_FFT = 512
BLOCK = 256
"""Frames that are transformed together: few enough for the cache, but not fewer, since after
`torch.set_num_threads` MKL has its threads wait for each other at each call."""
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
    window, filters = _tables()
    # In float64: in float32, the rounding of the loudest bin would drown the quiet bands of a tone. On one
    # thread: others would gain a few milliseconds where they are free, and spin where they are not.
    with openmp_threads(1):
        signal = torch.tensor(samples, dtype=torch.float64)
        # Pre-emphasis before framing, once a sample. A frame's first sample, which has none before it, does
        # not matter, since the window is 0 there; of the frame's mean, 1 - 0.97 is left.
        emphasized = torch.zeros_like(signal)
        torch.sub(signal[1:], signal[:-1], alpha=PREEMPHASIS, out=emphasized[1:])
        frames = emphasized.unfold(0, FRAME, HOP)
        means = signal.unfold(0, FRAME, HOP).mean(1, keepdim=True) * (1 - PREEMPHASIS)
        shaped = torch.zeros(min(len(frames), BLOCK), N_FFT, dtype=torch.float64)
        log = torch.empty(len(frames), NUM_BANDS, dtype=torch.float64)
        for own, mean, into in zip(frames.split(BLOCK), means.split(BLOCK), log.split(BLOCK), strict=True):
            block = shaped[: len(own)]
            torch.sub(own, mean, out=block[:, :FRAME])
            block[:, :FRAME] *= window
            spectrum = torch.fft.rfft(block)[:, : N_FFT // 2]
            power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
            torch.mm(power, filters, out=into)
        log.clamp_(min=MIN_POWER).log_()
        features: AudioArray = (log - log.mean(0)).float().numpy()
    return features


@lru_cache(maxsize=1)
def _tables() -> tuple[Tensor, Tensor]:
    """The window (400,) and the filters (256, 80), float64."""
    window = torch.from_numpy(np.hanning(FRAME) ** WINDOW_POWER)
    return window, torch.from_numpy(_filters()).T.contiguous()


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
