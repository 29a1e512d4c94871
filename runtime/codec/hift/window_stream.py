"""Mel to waveform in chunks by `Vocoder`: as `hift.stream` does it, with what is carried over on the device.

Of a batch, numbers and places go to the device in one copy, and samples come back in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS
from antiphon.codec.hift.stream import F0_CONTEXT, HIFT_CONTEXT
from antiphon.codec.hift.vocoder import SOURCE_TAIL, Made, Vocoder
from antiphon.codec.noise import PHASE, signed_seed, uniform_rows
from antiphon.device.transfer import from_device, to_device
from antiphon.sound.arrays import AudioArray

__all__ = ["WindowStream", "vocode_mels", "vocode_windows"]


class WindowStream:
    """One utterance's way from mel to samples. Keeps only the context that later samples need."""

    def __init__(self, vocoder: Vocoder, seed: int) -> None:
        self.vocoder = vocoder
        self.seed = seed
        self.num_emitted = 0
        """Frames whose samples are out."""
        self.num_voiced = 0
        """Frames that have a source."""
        self.num_frames = 0
        """Frames of mel that have come."""
        self.is_complete = False
        """Whether the last of the mel has come."""
        self.phase = first_phase(seed, vocoder.params.num_waves)
        """(waves,) float64: where its waves begin, in radians"""
        self._mels: list[Tensor] = []
        """(80, n_i): the mel from frame `_low` on; the last pieces are new"""
        self._low = 0
        self._source: Tensor | None = None
        """(256 * 28,): begins with the source of frames `_low` .. `num_voiced` - 1"""
        self._cycles: Tensor | None = None
        """(waves,) float64: the phases that the source has reached"""

    def add(self, mel: Tensor) -> None:
        """mel (80, frames), final."""
        if mel.shape[1]:
            self._mels = [*self._mels, mel]
            self.num_frames += mel.shape[1]

    def keep(self) -> None:
        """Keep new mel for a later call, in memory of its own."""
        self._mels = [mel.clone() for mel in self._mels]

    def state(self) -> dict[str, Any]:
        """The state, for `restore`. Tensors and lists are replaced, never written to, so they need not be
        copied."""
        return dict(self.__dict__)

    def restore(self, state: dict[str, Any]) -> None:
        """Return to the state that `state` gave."""
        self.__dict__.update(state)

    @property
    def next_voiced(self) -> int:
        """`num_voiced` after the next call."""
        return self.num_frames if self.is_complete else max(self.num_voiced, self.num_frames - F0_CONTEXT)

    @property
    def next_emitted(self) -> int:
        """`num_emitted` after the next call."""
        if self.is_complete:
            return self.num_frames
        return max(self.num_emitted, self.next_voiced - HIFT_CONTEXT)

    @property
    def num_window(self) -> int:
        """Frames of the next window."""
        return self.num_frames - self._low

    def numbers(self) -> tuple[int, int, int, int, int]:
        """See `Windows.numbers`."""
        low = self._low
        return self.num_window, self.num_voiced - low, self.next_voiced - low, low, signed_seed(self.seed)

    def take(self, mel: Tensor, source: Tensor, cycles: Tensor) -> None:
        """The next call's tails are these."""
        low = max(self._low, self.next_voiced - SOURCE_TAIL)
        self.num_emitted, self.num_voiced = self.next_emitted, self.next_voiced
        self._low, self._source, self._cycles = low, source, cycles
        self._mels = [mel[:, : self.num_frames - low]]


@torch.inference_mode()
def vocode_windows(vocoder: Vocoder, streams: Sequence[WindowStream]) -> list[AudioArray]:
    """The samples float32 (n_i,), n_i >= 0, that each stream can make now; all as one batch."""
    busy = [stream for stream in streams if stream.next_voiced > stream.num_voiced]
    waves: dict[int, AudioArray] = {}
    if busy:
        made = _make(vocoder, busy)
        mel, source, cycles = made.mel.clone(), made.source.clone(), made.cycles.clone()
        samples = from_device(made.samples[: len(busy)])
        for i, stream in enumerate(busy):
            begin, end = stream.num_emitted - stream._low, stream.next_emitted - stream._low
            waves[id(stream)] = samples[i, begin * HOP : end * HOP].copy()
            stream.take(mel[i], source[i], cycles[i])
    for stream in streams:
        if id(stream) not in waves:
            stream.keep()
    silence = np.zeros(0, np.float32)
    return [waves.get(id(stream), silence) for stream in streams]


@torch.inference_mode()
def vocode_mels(
    vocoder: Vocoder, mels: Sequence[Tensor], seeds: Sequence[int], sources: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Samples (256 * frames_i,) of each mel (80, frames_i), as one batch. sources: (256 * frames_i,) each,
    instead of those made from pitch and seed."""
    if sources is None:
        streams = [WindowStream(vocoder, seed) for seed in seeds]
        for stream, mel in zip(streams, mels, strict=True):
            stream.add(mel)
            stream.is_complete = True
        samples = _make(vocoder, streams).samples[: len(mels)].clone()
    else:
        frames = [mel.shape[1] for mel in mels]
        mel, source = mels[0].new_zeros(len(mels), MEL_BANDS, max(frames)), None
        source = mels[0].new_zeros(len(mels), HOP * max(frames))
        for i, (own, excitation) in enumerate(zip(mels, sources, strict=True)):
            mel[i, :, : frames[i]], source[i, : HOP * frames[i]] = own, excitation
        samples = vocoder.wave(mel, source, torch.tensor(frames, device=mel.device))
    return [row[: HOP * mel.shape[1]] for row, mel in zip(samples, mels, strict=True)]


def _make(vocoder: Vocoder, streams: Sequence[WindowStream]) -> Made:
    """Runs a batch: some rows of a recording may be padding."""
    count = len(streams)
    rows, frames = vocoder.size(count, max(stream.num_window for stream in streams))
    windows = vocoder.windows(rows, frames)
    pieces = [vocoder.zero_frame, *(mel for stream in streams for mel in stream._mels)]
    numbers, places = _plan(streams, rows, frames, vocoder.params.num_waves)
    both = to_device(np.concatenate([numbers.ravel(), places.ravel()]), vocoder.device)
    own, place = both[: numbers.size].view(rows, -1), both[numbers.size :]
    windows.numbers.copy_(own[:, :5])
    windows.phase.copy_(own[:, 5:].view(torch.float64))
    # A row beyond those of the streams has no frames: whatever else it holds is not read.
    mel = torch.cat(pieces, dim=1).index_select(1, place).view(MEL_BANDS, rows, frames)
    windows.mel.copy_(mel.transpose(0, 1))
    begun = [(i, stream) for i, stream in enumerate(streams) if stream._source is not None]
    if len(begun) == count:
        torch.stack([_known(stream._source) for stream in streams], out=windows.source[:count])
        torch.stack([_known(stream._cycles) for stream in streams], out=windows.cycles[:count])
    else:
        windows.cycles.zero_()
        for i, stream in begun:
            windows.source[i], windows.cycles[i] = _known(stream._source), _known(stream._cycles)
    return vocoder(windows)


def _plan(
    streams: Sequence[WindowStream], rows: int, frames: int, waves: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(rows, 5 + waves) int64: numbers, then the phases' bits; and (rows, frames) int64: which frame of the
    joined pieces each is, where frame 0 is a frame of zeros."""
    numbers = np.zeros((rows, 5 + waves), np.int64)
    places = np.zeros((rows, frames), np.int64)
    begin = 1
    for i, stream in enumerate(streams):
        numbers[i, :5] = stream.numbers()
        numbers[i, 5:] = stream.phase.view(np.int64)
        places[i, : stream.num_window] = np.arange(begin, begin + stream.num_window)
        begin += stream.num_window
    return numbers, places


def first_phase(seed: int, waves: int) -> np.ndarray[Any, Any]:
    """As `source.draw` gives it, in float64."""
    phase: np.ndarray[Any, Any] = (2 * uniform_rows(seed, PHASE, 0, 1, waves)[0] - 1) * math.pi
    phase[0] = 0
    return phase


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "source and phases come together"
    return tensor
