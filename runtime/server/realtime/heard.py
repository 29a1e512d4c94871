"""A transcript that grows and is rewritten, as text that only grows."""

from __future__ import annotations

__all__ = ["GrowingTranscript"]


class GrowingTranscript:
    """Passes on what has been the same in two updates that follow each other, and is never taken back."""

    def __init__(self) -> None:
        self._sent = ""
        self._last = ""

    def update(self, text: str) -> str:
        """Takes the whole transcript as it is now. Returns what may be added."""
        stable = _common(self._last, text)
        self._last = text
        return self._add(stable)

    def finish(self, text: str) -> str:
        """Takes the transcript as it stays. Returns what may be added: nothing if it has turned out otherwise
        than what was passed on."""
        return self._add(text)

    def _add(self, text: str) -> str:
        if len(text) <= len(self._sent) or not text.startswith(self._sent):
            return ""
        added, self._sent = text[len(self._sent) :], text
        return added


def _common(one: str, other: str) -> str:
    """What both begin with."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return one[:index]
    return min(one, other, key=len)
