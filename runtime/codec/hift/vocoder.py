"""The vocoder of a GPU: pitch, source, trunk and transforms of a whole batch as one function of tensors.

What differs between rows, lengths and seeds too, is a tensor on the device. So a batch of a size can be
recorded once, and is then one replay between one copy to the device and one from it, however many rows it
has. Each row comes out as by `Hift` and `source.harmonics`, to rounding.

A row is a window of an utterance, its frames from the left:

    | source is known | source is made now | mel is known, source later |
    0               old                  voiced                       known
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.batches import MAX_GRAPHS, Ladder
from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ
from antiphon.codec.hift.hift import Hift
from antiphon.codec.hift.masked_trunk import MaskedTrunk, mask_of
from antiphon.codec.hift.spectrum import Transform
from antiphon.codec.noise import EXCITATION
from antiphon.codec.stopping import stoppable
from antiphon.device.cuda_graph import Capture
from antiphon.kernels.normal_rows import normal_rows

__all__ = ["MEL_TAIL", "SOURCE_TAIL", "Made", "Vocoder", "Windows"]

SOURCE_TAIL = 28
"""Frames of source that a window begins with: the 14 before its first sample, which lags the source by 14."""
MEL_TAIL = SOURCE_TAIL + 5
"""Frames of mel that go with them: the source lags the mel by 5."""


@dataclass(frozen=True, eq=False)
class Windows:
    """A batch. Frames beyond `known` are zero."""

    mel: Tensor
    """(rows, 80, T)"""
    source: Tensor
    """(rows, 256 * 28): of the first `old` frames"""
    cycles: Tensor
    """(rows, waves) float64: the phases after them"""
    phase: Tensor
    """(rows, waves) float64: where the waves of the whole utterance begin, in radians"""
    numbers: Tensor
    """(rows, 5) int64: known, old, voiced, the frame of the utterance that the window begins with, seed"""

    @classmethod
    def zeros(cls, rows: int, frames: int, waves: int, device: torch.device) -> Windows:
        return cls(
            mel=torch.zeros(rows, MEL_BANDS, frames, device=device),
            source=torch.zeros(rows, SOURCE_TAIL * HOP, device=device),
            cycles=torch.zeros(rows, waves, dtype=torch.float64, device=device),
            phase=torch.zeros(rows, waves, dtype=torch.float64, device=device),
            numbers=torch.zeros(rows, 5, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True, eq=False)
class Made:
    """What becomes of a batch."""

    samples: Tensor
    """(rows, 256T); those beyond `voiced` frames mean nothing"""
    mel: Tensor
    """(rows, 80, 33): the end of the mel, from 28 frames before `voiced` or from the window's begin on"""
    source: Tensor
    """(rows, 256 * 28): that of the same frames"""
    cycles: Tensor
    """(rows, waves) float64: the phases after them"""


class Vocoder:
    """Keeps nothing of a batch. What it returns lasts until the next call if it was recorded."""

    def __init__(
        self, hift: Hift, dtype: torch.dtype, capture: Capture | None = None, ladder: Ladder | None = None
    ) -> None:
        """Weights are copied. dtype: that of the trunk's products. capture, ladder: records the sizes of this
        ladder; None: all runs kernel by kernel."""
        self.params = hift.params
        self.device = hift.conv_pre.weight.device
        self.trunk = MaskedTrunk(hift, dtype)
        self.transform = Transform(self.device)
        self.pitch = Pitch(hift)
        self.ladder = ladder
        mix = hift.m_source["l_linear"]
        assert isinstance(mix, nn.Linear), "built as one"
        self._mix = mix.weight.detach()[0], mix.bias.detach()
        self._order = torch.arange(1, self.params.num_waves + 1, dtype=torch.float64, device=self.device)
        self.zero_frame = torch.zeros(MEL_BANDS, 1, device=self.device)
        """What padding is made of."""
        self._capture = capture
        self._recordings: OrderedDict[tuple[int, int], Recording] = OrderedDict()
        self._is_closed = False

    def size(self, rows: int, frames: int) -> tuple[int, int]:
        """The rows and frames that a batch had best be padded to: those of a recording, or its own."""
        if self._capture is None or self.ladder is None:
            return rows, frames
        size = self.ladder.fit(rows, frames)
        return (rows, frames) if size is None or (self._is_closed and size not in self._recordings) else size

    @property
    def is_recorded(self) -> bool:
        """Whether anything is recorded."""
        return self._capture is not None and self.ladder is not None

    def close(self) -> None:
        """From now on, record nothing more: what has no recording runs kernel by kernel."""
        self._is_closed = True

    @torch.inference_mode()
    def windows(self, rows: int, frames: int) -> Windows:
        """Where a batch of this size is to be written, every row of it: those of the recording, which is made
        if the ladder has the size."""
        if self._has_recording(rows, frames):
            return self._recording(rows, frames).windows
        return Windows.zeros(rows, frames, self.params.num_waves, self.device)

    @torch.inference_mode()
    def __call__(self, windows: Windows) -> Made:
        rows, _, frames = windows.mel.shape
        if self._has_recording(rows, frames):
            recording = self._recording(rows, frames)
            if recording.windows is windows:
                return Made(*recording.replay())
        return Made(*self._step(windows))

    def f0(self, mel: Tensor, known: Tensor) -> Tensor:
        """Pitch (rows, T) float64 in Hz, of mel (rows, 80, T)."""
        return self.pitch(mel, known)

    def excite(self, f0: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """The source (rows, 256T) of frames old .. voiced - 1, and the phases (rows, waves) that they end at.

        Pitch is constant within a frame: phases add up over frames, and are a line within each.
        """
        params, frames = self.params, f0.shape[1]
        _, old, voiced, low, seed = windows.numbers.unbind(1)
        place = torch.arange(frames, device=f0.device)
        is_new = (place >= old[:, None]) & (place < voiced[:, None])
        # (rows, waves, frames), so that the sum runs along the memory
        step = ((f0 * is_new)[:, None] * self._order[:, None]) / SAMPLE_RATE_HZ
        sums = (step * HOP).cumsum(dim=2)
        begins = (windows.cycles[:, :, None] + sums - step * HOP) % 1
        ends = (windows.cycles + sums[:, :, -1]) % 1
        sample = torch.arange(1, HOP + 1, dtype=torch.float64, device=f0.device)[:, None]
        cycles = torch.addcmul(begins.mT[:, :, None], step.mT[:, :, None], sample) % 1
        angle = (2 * math.pi * cycles).float() + windows.phase.float()[:, None, None]
        is_voiced = (f0 > params.nsf_voiced_threshold).float()[:, :, None, None]
        noise_amplitude = is_voiced * params.nsf_sigma + (1 - is_voiced) * params.nsf_alpha / 3
        noise = normal_rows(seed, low, EXCITATION, frames, HOP * params.num_waves).view_as(angle)
        waves = torch.addcmul(angle.sin_() * (params.nsf_alpha * is_voiced), noise, noise_amplitude)
        weight, bias = self._mix
        return torch.tanh(waves @ weight + bias).flatten(1), ends

    def wave(self, mel: Tensor, source: Tensor, frames: Tensor) -> Tensor:
        """(rows, 256T) samples; mel (rows, 80, T) and source (rows, 256T) of `frames` frames each, the mel
        zero beyond."""
        spectra = self.trunk(mel, self.transform.spectra(source, frames), frames)
        limit = self.params.audio_limit
        return self.transform.samples(spectra, frames).clamp(-limit, limit)

    def _step(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        known, old, voiced, _, _ = windows.numbers.unbind(1)
        frames = windows.mel.shape[2]
        made, cycles = self.excite(self.f0(windows.mel, known), windows)
        length = min(SOURCE_TAIL, frames) * HOP
        is_old = mask_of(length, old * HOP)[:, 0].bool()
        before = torch.where(is_old, windows.source[:, :length], made[:, :length])
        source = torch.cat([before, made[:, length:]], dim=1)
        samples = self.wave(windows.mel * mask_of(frames, voiced), source, voiced)
        begin = (voiced - SOURCE_TAIL).clamp(min=0)[:, None]
        return samples, piece(windows.mel, begin, MEL_TAIL), piece(source, begin, SOURCE_TAIL), cycles

    def _has_recording(self, rows: int, frames: int) -> bool:
        if self._capture is None or self.ladder is None or self.ladder.fit(rows, frames) != (rows, frames):
            return False
        return not self._is_closed or (rows, frames) in self._recordings

    def _recording(self, rows: int, frames: int) -> Recording:
        assert self._capture is not None, "asked for only where there is one"
        recording = self._recordings.pop((rows, frames), None)
        if recording is None:
            windows = Windows.zeros(rows, frames, self.params.num_waves, self.device)
            with stoppable(lambda: False):  # stopping in the middle would leave the device recording
                recording = Recording(windows, self._capture(lambda: self._step(windows)))
        self._recordings[rows, frames] = recording  # as the last used one
        while len(self._recordings) > MAX_GRAPHS:
            self._recordings.popitem(last=False)
        return recording


@dataclass(frozen=True, eq=False)
class Recording:
    windows: Windows
    replay: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]


class Pitch:
    """`F0Predictor` in float64, its convolutions of 3 frames as products: a GPU's libraries have fast
    products of float64, but no fast convolutions."""

    def __init__(self, hift: Hift) -> None:
        predictor = hift.f0_predictor
        convs = [layer for layer in predictor.condnet if isinstance(layer, nn.Conv1d)]
        self._layers = [
            # (3 * in, out): the frame before, the frame, and the one after
            (conv.weight.detach().double().permute(2, 1, 0).flatten(0, 1), as_double(conv.bias))
            for conv in convs
        ]
        last = predictor.classifier
        self._last = last.weight.detach().double()[0], last.bias.detach().double()

    def __call__(self, mel: Tensor, known: Tensor) -> Tensor:
        rows, _, frames = mel.shape
        valid = mask_of(frames, known).mT.double()
        x = mel.mT.double()
        for weight, bias in self._layers:
            padded = F.pad(x * valid, (0, 0, 1, 1))
            three = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)
            x = F.elu(torch.addmm(bias, three.flatten(0, 1), weight)).view(rows, frames, -1)
        weight, bias = self._last
        return (x @ weight + bias).abs()


def as_double(bias: Tensor | None) -> Tensor:
    assert bias is not None, "built with one"
    return bias.detach().double()


def piece(x: Tensor, begin: Tensor, frames: int) -> Tensor:
    """`frames` frames of each row from its begin (rows, 1) on: of mel (rows, 80, T) or samples (rows, 256T).
    Frames beyond the last mean nothing."""
    if x.ndim == 3:
        place = (begin + torch.arange(frames, device=x.device)).clamp(max=x.shape[2] - 1)
        return x.gather(2, place[:, None].expand(-1, x.shape[1], -1))
    place = (begin * HOP + torch.arange(frames * HOP, device=x.device)).clamp(max=x.shape[1] - 1)
    return x.gather(1, place)
