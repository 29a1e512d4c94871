"""The body of a request, as it comes in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Receive

__all__ = ["RequestBody"]

LINGER_S = 10.0
"""How long in all the rest of a body is read that nobody wants."""
SILENCE_S = 2.0
"""How long nothing of it may come."""
LINGER_BYTES = 1 << 30


class RequestBody:
    """Counts what is received."""

    def __init__(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        self._receive = receive
        self.num_bytes = 0
        self.has_ended = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        """Whether all of it was received."""
        self.has_left = False
        """Whether the client has closed its connection."""

    async def receive(self) -> Message:
        """What the server gives next."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_left = True
        else:
            self.num_bytes += len(message.get("body", b""))
            self.has_ended = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read what is still to come, within limits. A client that sends all of its body before it reads
        would otherwise find its connection reset, and the answer lost."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(self.num_bytes + LINGER_BYTES), LINGER_S)

    async def _discard(self, most: int) -> None:
        while not (self.has_ended or self.has_left) and self.num_bytes < most:
            await asyncio.wait_for(self.receive(), SILENCE_S)
