"""Batches for the vocoder: short pieces of the speaking voice with their mel and pitch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import slaney_filters
from antiphon.codec.analysis.prompt_mel import MAGNITUDE_FLOOR, MIN_MAGNITUDE, N_FFT, PADDING
from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ
from antiphon_tiny.speech.shards import read_sets

__all__ = ["VocoderBatch", "VocoderBatches", "log_mel"]


@dataclass
class VocoderBatch:
    mel: Tensor
    """(batch, 80, frames) of the true sound"""
    f0: Tensor
    """(batch, frames) Hz"""
    samples: Tensor
    """(batch, 256 * frames) at 22.05 kHz"""
    made: Tensor | None
    """(batch, 80, frames) the flow's mel of the same"""


class VocoderBatches:
    def __init__(self, work: Path, name: str, mels: list[np.ndarray] | None = None) -> None:
        """mels: those that the flow made, for each utterance."""
        self._utterances = read_sets(work / "speech", [name])
        self._made = mels
        if mels is not None:
            self._utterances = self._utterances[: len(mels)]

    def draw(self, rng: random.Random, count: int, frames: int) -> VocoderBatch:
        rows = [self._piece(rng, frames) for _ in range(count)]
        around, f0, made = (_stack([row[k] for row in rows]) for k in range(3))
        return VocoderBatch(
            log_mel(around), f0, around[:, PADDING:-PADDING], None if self._made is None else made
        )

    def _piece(self, rng: random.Random, frames: int) -> tuple[np.ndarray, ...]:
        """Samples with `PADDING` more on either side, pitch, and the flow's mel."""
        while True:
            index = rng.randrange(len(self._utterances))
            utterance = self._utterances[index]
            f0 = utterance.tracks["f0"]
            length = len(f0) if self._made is None else min(len(f0), self._made[index].shape[1])
            if length > frames:
                break
        start = rng.randint(0, length - frames)
        low, high = start * HOP - PADDING, (start + frames) * HOP + PADDING
        track = utterance.tracks["spoken"]
        samples = track[max(0, low) : min(high, len(track))].astype(np.float32) / 32767
        samples = np.pad(samples, (max(0, -low), max(0, high - len(track))), mode="reflect")
        f0 = f0[start : start + frames].astype(np.float32)
        if self._made is None:
            return samples, f0, f0
        return samples, f0, self._made[index][:, start : start + frames].astype(np.float32)


def log_mel(around: Tensor) -> Tensor:
    """The runtime's `prompt_mel` of a batch that has its own surroundings: (batch, 256 n + 768) to
    (batch, 80, n)."""
    spectrum = torch.stft(
        around, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True
    )
    magnitude = (spectrum.real.square() + spectrum.imag.square() + MAGNITUDE_FLOOR).sqrt()
    filters = torch.from_numpy(slaney_filters(SAMPLE_RATE_HZ, N_FFT, MEL_BANDS))
    return (filters @ magnitude).clamp(min=MIN_MAGNITUDE).log()


def _stack(rows: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(rows))
