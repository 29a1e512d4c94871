"""Sound to units, piece by piece, with or without its silence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.speech_tokenizer import PIECE_SAMPLES, SpeechTokenizer
from antiphon.prompt import HeardUnits
from antiphon.sound.arrays import AudioArray
from antiphon.sound.silence import Stretch, without_silence
from antiphon.types import UNITS_PER_S

__all__ = ["UNIT_SAMPLES", "HeardPiece", "hear_piece", "hear_whole"]

UNIT_SAMPLES = INPUT_RATE_HZ // UNITS_PER_S


@dataclass(frozen=True)
class HeardPiece:
    """A piece of sound as the network hears it."""

    units: list[int] = field(default_factory=list)
    kept: list[Stretch] | None = None
    """What the network was given of it, as samples at 16 kHz; None: all of it."""

    def places(self, start: int = 0) -> list[int]:
        """For each unit, the unit of the sound that begins where it does: the same number, but for silence
        that was cut before it. start: where the piece begins in the sound, in samples at 16 kHz."""
        own = np.arange(len(self.units)) * UNIT_SAMPLES
        if self.kept is not None:
            starts, ends = np.array(self.kept, np.int64).reshape(-1, 2).T
            lengths = np.cumsum(ends - starts)
            stretch = np.minimum(np.searchsorted(lengths, own, side="right"), len(lengths) - 1)
            own = own + ends[stretch] - lengths[stretch] if len(own) else own
        return [int(place) for place in (own + start) // UNIT_SAMPLES]


def hear_piece(
    tokenizer: SpeechTokenizer, samples: AudioArray, *, trims: bool, before: HeardPiece | None = None
) -> HeardPiece:
    """float32 (n,) at 16 kHz, 0 < n <= PIECE_SAMPLES. trims: without its silence; a piece in which nobody
    speaks has no units then. before: what was heard of its beginning; it is the answer if nothing but silence
    has followed, without running the network again."""
    if not trims:
        return HeardPiece(tokenizer.tokenize(samples))
    kept = without_silence(samples, INPUT_RATE_HZ)
    if before is not None and before.kept == kept:
        return before
    if not kept:
        return HeardPiece([], kept)
    return HeardPiece(tokenizer.tokenize(np.concatenate([samples[a:b] for a, b in kept])), kept)


def hear_whole(
    tokenizer: SpeechTokenizer, samples: AudioArray, *, trims: bool, or_all: bool = True
) -> HeardUnits:
    """float32 (n,) at 16 kHz, n > 0. or_all: where there is no speech at all, nothing is cut of the last
    piece: what it is, is for the model to say."""
    units: list[int] = []
    places: list[int] = []
    is_cut = False
    for start in range(0, len(samples), PIECE_SAMPLES):
        piece = samples[start : start + PIECE_SAMPLES]
        heard = hear_piece(tokenizer, piece, trims=trims)
        if trims and or_all and not (units or heard.units) and start + PIECE_SAMPLES >= len(samples):
            heard = hear_piece(tokenizer, piece, trims=False)
        units += heard.units
        places += heard.places(start)
        is_cut |= heard.kept is not None
    length = -(-len(samples) // UNIT_SAMPLES) if is_cut else len(units)
    return HeardUnits(tuple(units), tuple(places), max(length, places[-1] + 1 if places else 0))
