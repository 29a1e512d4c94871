"""What goes out to a client: numbered, kept for one that comes back, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from antiphon.aio.conversation.items import new_id

__all__ = ["Outbox"]

MAX_WAITING_BYTES = 16 << 20
"""What a client may be behind."""
MAX_KEPT_BYTES = 4 << 20
"""What is kept of the events that were sent, for a client that comes back."""
EVENT_BYTES = 400
"""What an event takes beside its sound."""
SOUND_EVENTS = ("response.output_audio.delta", "response.audio.delta", "session.output_audio.delta")


class Outbox:
    """Events on their way to one client. An event gets its number when it is sent, so that no number is
    missing where sound was dropped that nobody wants any more."""

    def __init__(self, max_waiting_bytes: int = MAX_WAITING_BYTES, *, is_numbered: bool = True) -> None:
        self.is_full = False
        """Whether the client was too far behind, so that there is a gap: nothing more is taken."""
        self.num_sent = 0
        self._is_numbered = is_numbered
        self._max_waiting_bytes = max_waiting_bytes
        self._num_waiting_bytes = 0
        self._waiting: deque[dict[str, Any]] = deque()
        self._kept: deque[tuple[int, str]] = deque()
        self._num_kept_bytes = 0
        self._again: deque[str] = deque()
        """Those kept that a client that has come back is sent once more."""
        self._news = asyncio.Event()
        self._has_ended = False

    def put(self, event: dict[str, Any]) -> None:
        """An event for the client; nothing after `end`."""
        if self._has_ended or self.is_full:
            return
        self._num_waiting_bytes += _size(event)
        if self._num_waiting_bytes > self._max_waiting_bytes:
            self.is_full = True
        else:
            self._waiting.append(event)
        self._news.set()

    def drop_sound(self, response_id: str) -> None:
        """Leave out what was not sent yet of a response's sound."""
        kept = [
            event
            for event in self._waiting
            if event["type"] not in SOUND_EVENTS or event.get("response_id", response_id) != response_id
        ]
        self._waiting = deque(kept)
        self._num_waiting_bytes = sum(map(_size, kept))

    def end(self) -> None:
        """There will be no more events."""
        self._has_ended = True
        self._news.set()

    def may_rewind(self, after: int) -> bool:
        """Whether there is an event of this number, and what follows it is kept."""
        first = self._kept[0][0] if self._kept else self.num_sent
        return first - 1 <= after < self.num_sent

    def rewind(self, after: int) -> None:
        """Have what follows the event of this number sent (again)."""
        self._again = deque(text for number, text in self._kept if number > after)
        self._news.set()

    async def take(self) -> str | None:
        """The next event as JSON; None at the end. Of one task at a time."""
        while True:
            if self._again:
                return self._again.popleft()
            if self.is_full:
                return None
            if self._waiting:
                return self._numbered(self._waiting.popleft())
            if self._has_ended:
                return None
            self._news.clear()
            await self._news.wait()

    def _numbered(self, event: dict[str, Any]) -> str:
        self._num_waiting_bytes -= _size(event)
        numbered = {"type": event["type"], "event_id": new_id("event"), **event}
        if self._is_numbered:
            numbered["sequence_number"] = self.num_sent
        text = json.dumps(numbered)
        if self._is_numbered:
            self._kept.append((self.num_sent, text))
            self._num_kept_bytes += len(text)
            while self._num_kept_bytes > MAX_KEPT_BYTES:
                self._num_kept_bytes -= len(self._kept.popleft()[1])
        self.num_sent += 1
        return text


def _size(event: dict[str, Any]) -> int:
    return EVENT_BYTES + sum(len(value) for value in event.values() if isinstance(value, str))
