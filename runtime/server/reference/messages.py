"""What the model worker and the controller answer with: JSON objects, each followed by one NUL byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["LOST", "NO_WORKER", "NUL", "WRONG", "MessageStream", "failure", "message", "paced"]

NETWORK_ERROR = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
"""The sentence that the released page shows for every error."""
WRONG, NO_WORKER, LOST = 1, 2, 3
"""Codes: the request could not be answered; nobody serves the model; its worker was lost."""
NUL = b"\0"

T = TypeVar("T")


def message(fields: dict[str, Any]) -> bytes:
    """One object as it is sent. It is ASCII, so that a NUL in it is nothing but its end."""
    return json.dumps(fields, ensure_ascii=True).encode() + NUL


def failure(code: int, detail: str) -> bytes:
    """An error. `detail`, which the released clients do not read, says what it is."""
    return message({"text": NETWORK_ERROR, "error_code": code, "detail": detail})


class MessageStream(StreamingResponse):
    """A stream of messages, whose source is closed as soon as it ends or its client goes away."""

    media_type = "application/octet-stream"

    def __init__(self, messages: AsyncGenerator[bytes, None]) -> None:
        super().__init__(messages)
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._messages):
            await super().__call__(scope, receive, send)


async def paced(source: AsyncGenerator[T, None], every_s: float) -> AsyncGenerator[T | None, None]:
    """What `source` gives, and None whenever it has given nothing for this long."""
    pending: asyncio.Future[list[T]] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(source))
            done, _ = await asyncio.wait([pending], timeout=every_s)
            if not done:
                yield None
                continue
            items, pending = pending.result(), None
            if not items:
                return
            yield items[0]
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await pending


async def _next(source: AsyncGenerator[T, None]) -> list[T]:
    """What comes next; nothing at the end."""
    async for item in source:
        return [item]
    return []
