"""Mel to waveform in chunks that equal the whole: HiFT is local, and what is not local is carried over.

A sample depends on the mel and the source within 14 frames, the pitch of a frame on the mel within 5. So
sound lags the mel by 19 frames (0.22 s), and only the source's phase, a sum over everything that was said, is
passed from chunk to chunk, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS
from antiphon.codec.hift.hift import F0_CONVS, Hift
from antiphon.codec.hift.source import draw, harmonics

__all__ = ["F0_CONTEXT", "HIFT_CONTEXT", "HiftStream", "vocode_streams"]

F0_CONTEXT = F0_CONVS
"""Frames to either side that the pitch of a frame depends on: one for each convolution of 3."""
HIFT_CONTEXT = 14
"""Frames of mel and source to either side that a sample depends on."""


@dataclass(frozen=True)
class Span:
    """Frames start .. end - 1 of the utterance, computed from frames low .. high - 1."""

    start: int
    end: int
    low: int
    high: int

    @property
    def inner(self) -> slice:
        return slice(self.start - self.low, self.end - self.low)


class HiftStream:
    """One utterance's way from mel to samples. Keeps only the context that later samples need."""

    def __init__(self, hift: Hift, seed: int) -> None:
        device = hift.conv_pre.weight.device
        self.hift = hift
        self.seed = seed
        self.num_emitted = 0
        """Frames whose samples are out."""
        self.is_complete = False
        """Whether the last of the mel has come."""
        self._mel = torch.zeros(MEL_BANDS, 0, device=device)
        self._source = torch.zeros(0, device=device)
        # Where these begin, in frames.
        self._mel_start = 0
        self._source_start = 0
        self._cycles: Tensor | None = None
        """(waves,) the phases that the source has reached"""

    def add(self, mel: Tensor) -> None:
        """mel (80, frames), final."""
        self._mel = torch.cat([self._mel, mel], dim=1)

    @property
    def num_frames(self) -> int:
        return self._mel_start + self._mel.shape[1]

    @property
    def num_voiced(self) -> int:
        """Frames that have a source."""
        return self._source_start + self._source.shape[0] // HOP

    def f0_span(self) -> Span:
        """The frames that a source can be made for now."""
        return self._span(self.num_voiced, self.num_frames, F0_CONTEXT)

    def sample_span(self) -> Span:
        """The frames whose samples can be made now."""
        return self._span(self.num_emitted, self.num_voiced, HIFT_CONTEXT)

    def mel(self, span: Span) -> Tensor:
        return self._mel[:, span.low - self._mel_start : span.high - self._mel_start]

    def source(self, span: Span) -> Tensor:
        return self._source[(span.low - self._source_start) * HOP : (span.high - self._source_start) * HOP]

    def excite(self, f0: Tensor) -> None:
        """Continue the source over frames of this pitch (Hz)."""
        params = self.hift.params
        draws = draw(params, self.seed, self.num_voiced, f0.shape[0], f0.device)
        waves, self._cycles = harmonics(f0, draws, params, self._cycles)
        self._source = torch.cat([self._source, self.hift.mix(waves)])

    def emitted(self, span: Span) -> None:
        """The samples of `span` are out; forget what nothing later depends on."""
        self.num_emitted = span.end
        source_start = max(self._source_start, self.num_emitted - HIFT_CONTEXT)
        mel_start = max(self._mel_start, min(source_start, self.num_voiced - F0_CONTEXT))
        self._source = self._source[(source_start - self._source_start) * HOP :].clone()
        self._mel = self._mel[:, mel_start - self._mel_start :].clone()
        self._source_start, self._mel_start = source_start, mel_start

    def state(self) -> dict[str, Any]:
        """The state, for `restore`. Tensors are replaced, never written to, so they need not be copied."""
        return dict(self.__dict__)

    def restore(self, state: dict[str, Any]) -> None:
        """Return to the state that `state` gave."""
        self.__dict__.update(state)

    def _span(self, start: int, known: int, context: int) -> Span:
        end = known if self.is_complete else max(start, known - context)
        return Span(start, end, max(0, start - context), min(known, end + context))


def vocode_streams(hift: Hift, streams: list[HiftStream]) -> list[Tensor]:
    """The samples (n,), n >= 0, that each stream can make now; all as one batch."""
    voiced = [(stream, span) for stream in streams if (span := stream.f0_span()).start < span.end]
    if voiced:
        pitches = hift.f0([stream.mel(span) for stream, span in voiced])
        for (stream, span), f0 in zip(voiced, pitches, strict=True):
            stream.excite(f0[span.inner])
    spans = [stream.sample_span() for stream in streams]
    heard = [(stream, span) for stream, span in zip(streams, spans, strict=True) if span.start < span.end]
    waves: dict[int, Tensor] = {}
    if heard:
        made = hift(
            [stream.mel(span) for stream, span in heard], [stream.source(span) for stream, span in heard]
        )
        for (stream, span), wave in zip(heard, made, strict=True):
            inner = span.inner
            waves[id(stream)] = wave[inner.start * HOP : inner.stop * HOP]
            stream.emitted(span)
    silence = torch.zeros(0)
    return [waves.get(id(stream), silence) for stream in streams]
