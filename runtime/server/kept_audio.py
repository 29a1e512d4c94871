"""Spoken replies that clients refer to by their ids in later turns."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["AudioId", "KeptAudio"]

BYTES_EACH = 500
"""What an entry takes beside its text."""


@dataclass(frozen=True)
class AudioId:
    """The id of a spoken reply, and the second, on the clock of `time.time`, in which it expires."""

    id: str
    expires_at: int


class KeptAudio:
    """What was said in spoken replies, until each expires, or until newer ones need the room.

    A later turn reads a reply as text, so the sound itself is not kept.
    """

    def __init__(self, expiry_s: float, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._expiry_s = expiry_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[int, str]] = OrderedDict()
        """Id to the time of its expiry and the text, the oldest first."""
        self._num_bytes = 0

    def new_id(self) -> AudioId:
        """An id for a reply that begins."""
        return AudioId(f"audio_{uuid.uuid4().hex}", int(self._clock() + self._expiry_s))

    def keep(self, audio_id: AudioId, transcript: str) -> None:
        """Remember what was said under an id; the oldest are forgotten where there is no room."""
        if (before := self._kept.pop(audio_id.id, None)) is not None:
            self._num_bytes -= _size(before[1])
        self._kept[audio_id.id] = (audio_id.expires_at, transcript)
        self._num_bytes += _size(transcript)
        self._forget_old()

    def transcript(self, audio_id: str) -> str | None:
        """What was said under an id; None for one that is unknown or has expired."""
        self._forget_old()
        found = self._kept.get(audio_id)
        return None if found is None else found[1]

    def _forget_old(self) -> None:
        now = self._clock()
        while self._kept:
            expires_at, transcript = next(iter(self._kept.values()))
            if self._num_bytes <= self._max_bytes and now < expires_at:
                return
            self._kept.popitem(last=False)
            self._num_bytes -= _size(transcript)


def _size(transcript: str) -> int:
    return len(transcript.encode("utf-8", "surrogatepass")) + BYTES_EACH
