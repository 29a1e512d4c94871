"""What those who make speech elsewhere are asked, and what they answer, see `vocoding.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from antiphon.codec.apart.stream import StreamApart, packed_voice
from antiphon.codec.voices import Voice
from antiphon.sound.arrays import AudioArray

__all__ = ["Asking", "VocoderDied"]


class VocoderDied(Exception):
    """The process has ended before it answered; says how."""


class Asking(ABC):
    """One place where speech is made; one thread at a time may ask it something."""

    def advance(self, streams: Sequence[StreamApart]) -> list[AudioArray]:
        """One chunk of each stream, as one batch; samples float32 (n_i,), n_i >= 0.

        Raises VocoderDied, Stopped if nobody wants it any more (see `stoppable`), or RuntimeError with what
        went wrong there. The streams are then as before.
        """
        rows = [stream.row() for stream in streams]
        answer, data = self.ask("advance", rows)
        made = answer["rows"]
        ends = np.cumsum([0, *(row["state_bytes"] for row in made)]).tolist()
        samples = _split(data[ends[-1] :], [row["num_samples"] for row in made])
        for stream, row, (begin, end) in zip(streams, made, pairwise(ends), strict=True):
            stream.take(row, data[begin:end])
        return samples

    def decode(
        self, units: Sequence[Sequence[int]], voices: Sequence[Voice], seeds: Sequence[int]
    ) -> list[AudioArray]:
        """The whole speech of each utterance, as `Codec.decode` makes it. Raises what `advance` does."""
        rows = []
        for own, voice, seed in zip(units, voices, seeds, strict=True):
            parts, data = packed_voice(voice)
            row = {"units": list(own), "seed": seed, "voice": parts, "voice_bytes": len(data)}
            rows.append((row, data))
        answer, data = self.ask("decode", rows)
        return _split(data, answer["samples"])

    @abstractmethod
    def ask(self, what: str, rows: Sequence[tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
        """The answer to one message, and its bytes. what: "advance" or "decode". rows: one for each
        utterance, with its bytes. Raises what `advance` does."""


def _split(data: bytes, lengths: Sequence[int]) -> list[AudioArray]:
    samples = np.frombuffer(data, np.float32)
    ends = np.cumsum([0, *lengths]).tolist()
    return [samples[begin:end].copy() for begin, end in pairwise(ends)]
