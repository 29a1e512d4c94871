"""Ids to text while they are being generated, in pieces that add up to the whole."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from antiphon.text.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer"]


class IncrementalDetokenizer:
    """Turns the ids of one request into text as they come.

    The pieces that `push` and `finish` return, joined, are exactly the decoding of all ids, without
    special tokens, stripped of white space at both ends. `push` returns only what is certain: no part
    of a character, no white space that may turn out to be trailing, and nothing that may be the
    beginning of a stop string. Each character is looked at once, so the cost of a token does not grow
    with the length of the text.

    `stop`: non-empty strings. The text ends before the first one to be completed (the longest, if the
    same character completes several); they are looked for in the text before it is stripped.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = _StopMatcher(stop) if stop else None
        self._spaces: list[str] = []
        self._started = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text; nothing comes after it."""
        return self._stop is not None and self._stop.matched

    def push(self, ids: Iterable[int]) -> str:
        """Take more ids, return more text."""
        return self._advance(b"".join(map(self._tokenizer.token_bytes, ids)), final=False)

    def finish(self) -> str:
        """No more ids will come: return the text that was held back. An unfinished character is U+FFFD."""
        return self._advance(b"", final=True)

    def _advance(self, data: bytes, final: bool) -> str:
        text = self._utf8.decode(data, final)
        if self._stop is not None:
            text = self._stop.push(text)
            if final:
                text += self._stop.finish()
        return self._strip(text)

    def _strip(self, text: str) -> str:
        """`text` without leading white space of the whole, and with trailing white space held back."""
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        kept = text.rstrip()
        if not kept:
            self._spaces += [text] if text else []
            return ""
        released = "".join(self._spaces) + kept
        self._spaces = [text[len(kept) :]]
        return released


class _StopMatcher:
    """Passes on text up to the first stop string (Knuth-Morris-Pratt, one automaton for each)."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.matched = False
        self._stop = [(text, _borders(text)) for text in stop]
        self._lengths = [0] * len(self._stop)  # how much of each stop string the text ends with
        self._held = ""  # the longest of these

    def push(self, text: str) -> str:
        if self.matched:
            return ""
        text = self._held + text
        for end in range(len(self._held), len(text)):
            ended = [self._step(i, text[end]) for i in range(len(self._stop))]
            if any(ended):
                self.matched = True
                self._held = ""
                longest = max(len(stop) for (stop, _), hit in zip(self._stop, ended, strict=True) if hit)
                return text[: end + 1 - longest]
        num_passed = len(text) - max(self._lengths)
        self._held = text[num_passed:]
        return text[:num_passed]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    def _step(self, index: int, char: str) -> bool:
        """Advance one automaton by one character; returns whether its stop string is complete."""
        stop, borders = self._stop[index]
        length = self._lengths[index]
        while length and stop[length] != char:
            length = borders[length - 1]
        length += stop[length] == char
        self._lengths[index] = length
        return length == len(stop)


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for end in range(1, len(text)):
        while length and text[length] != text[end]:
            length = borders[length - 1]
        length += text[length] == text[end]
        borders[end] = length
    return borders
