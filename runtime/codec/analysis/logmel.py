"""Whisper's log-mel spectrum with 128 bands (arXiv 2212.04356), which the speech tokenizer reads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.kernels.threads import openmp_threads

__all__ = ["FRAME_RATE_HZ", "INPUT_RATE_HZ", "NUM_BANDS", "log_mel", "slaney_filters"]

INPUT_RATE_HZ = 16000
NUM_BANDS = 128
N_FFT = 400
HOP = 160
FRAME_RATE_HZ = INPUT_RATE_HZ // HOP
MIN_SAMPLES = N_FFT // 2 + 1
"""Reflection at the ends needs this number; shorter audio is padded with zeros."""
MIN_POWER = 1e-10
DYNAMIC_RANGE = 8.0
"""In powers of ten below the loudest of the clip."""

# The Slaney scale: linear below 1000 Hz, 27 steps for every factor of 6.4 above.
LINEAR_LIMIT_HZ = 1000.0
LINEAR_MELS = 15.0
LOG_STEP = float(np.log(6.4)) / 27
HIGHEST_HZ = 8000.0


def log_mel(samples: Tensor) -> Tensor:
    """float32 or float64 (n,) at 16 kHz to (128, max(n, 201) // 160), about -1 to 1.

    The floor follows the loudest value of the whole clip, so clips cannot share a padded batch.
    """
    if samples.shape[0] < MIN_SAMPLES:
        samples = torch.nn.functional.pad(samples, (0, MIN_SAMPLES - samples.shape[0]))
    # On one thread: it takes a millisecond for a question, and from 1.7 s of sound on torch would share it
    # with threads that then spin for longer than that on the cores that the network wants.
    with openmp_threads(1):
        window = torch.hann_window(N_FFT, dtype=samples.dtype, device=samples.device)
        spectrum = torch.stft(samples, N_FFT, HOP, window=window, pad_mode="reflect", return_complex=True)
        power = spectrum[:, :-1].abs().square()
        filters = torch.from_numpy(slaney_filters(INPUT_RATE_HZ, N_FFT, NUM_BANDS)).to(samples)
        log = (filters @ power).clamp(min=MIN_POWER).log10()
        return (torch.maximum(log, log.max() - DYNAMIC_RANGE) + 4) / 4


@lru_cache(maxsize=4)
def slaney_filters(rate_hz: int, n_fft: int, num_bands: int) -> np.ndarray[Any, Any]:
    """Triangles of equal area, equally spaced in mel up to 8000 Hz: float32 (num_bands, n_fft // 2 + 1)."""
    highest = LINEAR_MELS + np.log(HIGHEST_HZ / LINEAR_LIMIT_HZ) / LOG_STEP
    mels = np.linspace(0.0, highest, num_bands + 2)
    corners = np.where(
        mels < LINEAR_MELS,
        mels * (LINEAR_LIMIT_HZ / LINEAR_MELS),
        LINEAR_LIMIT_HZ * np.exp(LOG_STEP * (mels - LINEAR_MELS)),
    )
    bins = np.arange(n_fft // 2 + 1) * (rate_hz / n_fft)
    widths = np.diff(corners)
    rising = (bins - corners[:-2, None]) / widths[:-1, None]
    falling = (corners[2:, None] - bins) / widths[1:, None]
    area = 2 / (corners[2:] - corners[:-2])
    filters: np.ndarray[Any, Any] = np.maximum(0, np.minimum(rising, falling)) * area[:, None]
    return filters.astype(np.float32)
