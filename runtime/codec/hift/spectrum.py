"""The vocoder's transforms of 16 points for ragged batches, as products with a fixed basis.

The same as `hift.source_spectrum` and `hift.spectrum_samples` of each row, to float32's rounding. But all
rows are transformed at once, by a fixed number of kernels, and nobody waits for a device: the lengths of rows
are tensors on it. Spectra lie as (rows, frames, bins), frames 4 samples apart.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import HOP, ISTFT_HOP, ISTFT_N_FFT
from antiphon.codec.hift.hift import MAX_MAGNITUDE, NUM_BINS

__all__ = ["Transform"]

SHARE = ISTFT_N_FFT // ISTFT_HOP
"""Frames that a sample lies in."""
EDGE = ISTFT_N_FFT // 2
"""Samples of the first frame that lie before the row."""


class Transform:
    """Both directions, for rows padded to the same number of mel frames."""

    def __init__(self, device: torch.device) -> None:
        window = torch.hann_window(ISTFT_N_FFT, dtype=torch.float64)
        sample, order = torch.arange(ISTFT_N_FFT), torch.arange(NUM_BINS)
        angle = 2 * math.pi / ISTFT_N_FFT * (sample[:, None] * order).double()
        # Bins other than the first and the last stand for two.
        share = torch.full((NUM_BINS,), 2.0 / ISTFT_N_FFT, dtype=torch.float64)
        share[[0, -1]] /= 2
        forth = torch.cat([angle.cos(), -angle.sin()], dim=1) * window[:, None]
        back = torch.cat([share * angle.cos(), -share * angle.sin()], dim=1).mT * window
        self._forth, self._back = forth.float().to(device), back.float().to(device)
        """(16, 18) and (18, 16): real parts, then imaginary parts; windowed"""
        self._squares = window.square().float().to(device).view(1, 1, SHARE, ISTFT_HOP)

    def spectra(self, source: Tensor, frames: Tensor) -> Tensor:
        """(rows, 256T) samples, of which 256 * frames[i] are valid, to (rows, 64T + 1, 18), zero beyond."""
        size, ends = source.shape[1], HOP * frames[:, None]
        place = torch.arange(-EDGE, size + EDGE, device=source.device).abs()
        # Each row is reflected at its own end.
        place = torch.where(place < ends, place, 2 * (ends - 1) - place).clamp(0, size - 1)
        pieces = source.gather(1, place).unfold(1, ISTFT_N_FFT, ISTFT_HOP)
        return (pieces @ self._forth) * self._is_valid(pieces.shape[1], frames)

    def samples(self, spectra: Tensor, frames: Tensor) -> Tensor:
        """(rows, 64T + 1, 18) log-magnitude and sine of phase to (rows, 256T) samples of any level; those
        beyond 256 * frames[i] mean nothing."""
        valid = self._is_valid(spectra.shape[1], frames)
        magnitude = spectra[..., :NUM_BINS].exp().clamp(max=MAX_MAGNITUDE) * valid
        phase = spectra[..., NUM_BINS:].sin()
        parts = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1)
        weight = valid[..., None] * self._squares
        # At the ends a sample lies in fewer frames.
        out = overlapped((parts @ self._back).unflatten(-1, (SHARE, ISTFT_HOP))) / overlapped(weight).clamp(
            min=1e-11
        )
        last = EDGE // ISTFT_HOP
        return out[:, last:-last].flatten(1)[:, : ISTFT_HOP * (spectra.shape[1] - 1)]

    def _is_valid(self, count: int, frames: Tensor) -> Tensor:
        """(rows, count, 1)"""
        place = torch.arange(count, device=frames.device)
        return (place <= HOP // ISTFT_HOP * frames[:, None])[..., None].float()


def overlapped(pieces: Tensor) -> Tensor:
    """(rows, frames, 4, 4) to (rows, frames + 3, 4): sums of what lies at the same samples, where each frame
    begins 4 samples after the one before."""
    count = pieces.shape[1] + SHARE - 1
    shifted = [F.pad(pieces[:, :, k], (0, 0, k, SHARE - 1 - k)) for k in range(SHARE)]
    total = shifted[0]
    for part in shifted[1:]:
        total = total + part
    assert total.shape[1] == count, "each piece lies in it"
    return total
