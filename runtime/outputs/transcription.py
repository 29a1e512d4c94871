"""What was said in a recording, when, and word by word. Plain data: this file imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from antiphon.types import UNITS_PER_S

__all__ = ["Segment", "Transcription", "Word", "words_of"]


@dataclass(frozen=True)
class Word:
    """A word with the punctuation that follows it.

    Its times are those at which the model read it, to 40 ms: that is seldom before it has been said, and for
    short words only a moment.
    """

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Segment:
    """What was said between two pauses."""

    text: str
    start_s: float
    """When speech begins, from the start of the recording."""
    end_s: float
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    """The ids of the text."""


@dataclass(frozen=True)
class Transcription:
    """All that was said in a recording."""

    segments: tuple[Segment, ...]
    """In their order. Empty if nobody speaks."""
    duration_s: float
    """Length of the recording."""

    @property
    def text(self) -> str:
        """The texts of the segments, with spaces between them."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)


def words_of(
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    token_bytes: Callable[[int], bytes],
    begins_s: float = 0.0,
) -> tuple[Word, ...]:
    """The words of a transcript: each begins with a token that begins with white space.

    spans: for each id, its units [start, end). begins_s: when the first unit begins.
    """
    words: list[tuple[bytes, int, int]] = []
    for token, (start, end) in zip(ids, spans, strict=True):
        data = token_bytes(token)
        if words and not data[:1].isspace():
            before, first, _ = words[-1]
            words[-1] = (before + data, first, end)
        else:
            words.append((data, start, end))
    texts = [data.decode("utf-8", "replace").strip() for data, _, _ in words]
    return tuple(
        Word(text, begins_s + start / UNITS_PER_S, begins_s + end / UNITS_PER_S)
        for text, (_, start, end) in zip(texts, words, strict=True)
        if text
    )
