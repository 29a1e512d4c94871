"""HiFi-GAN's log-mel spectrum (arXiv 2010.05646), the flow's own kind of mel, of a clip of speech: how a
prompt sounded."""

from __future__ import annotations

import numpy as np
import torch

from antiphon.codec.analysis.logmel import slaney_filters
from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ
from antiphon.kernels.threads import openmp_threads
from antiphon.sound.arrays import AudioArray

__all__ = ["prompt_mel"]

N_FFT = 1024
PADDING = (N_FFT - HOP) // 2
"""Samples reflected at both ends, so that frame t is centred on samples 256 t to 256 (t + 1)."""
MAGNITUDE_FLOOR = 1e-9
"""Added to the power, since training needed a gradient at zero."""
MIN_MAGNITUDE = 1e-5


def prompt_mel(samples: AudioArray) -> AudioArray:
    """float32 (n,) at 22.05 kHz, n > 384, to float32 (80, n // 256): natural logarithms of magnitudes."""
    assert len(samples) > PADDING, "callers bound the clip from below"
    padded = np.pad(samples.astype(np.float64), PADDING, mode="reflect")
    # Hann, periodic.
    window = np.hanning(N_FFT + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    magnitude = np.sqrt(np.abs(np.fft.rfft(frames * window)) ** 2 + MAGNITUDE_FLOOR)
    filters = slaney_filters(SAMPLE_RATE_HZ, N_FFT, MEL_BANDS).astype(np.float64)
    with openmp_threads(1):  # numpy's BLAS would wake threads, which then spin on the cores of the networks
        bands = torch.from_numpy(filters) @ torch.from_numpy(magnitude).T
    mel: AudioArray = np.log(np.maximum(bands.numpy(), MIN_MAGNITUDE)).astype(np.float32)
    return mel
