"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from antiphon.server.errors import api_error
from antiphon.server.service import until_gone

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["DONE", "EVENTS", "EventStream", "begun", "error_event", "event"]

DONE = "data: [DONE]\n\n"
"""How OpenAI's chats end."""
_ITEM = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
EVENTS: dict[str, Any] = {"text/event-stream": {"itemSchema": _ITEM}}
"""For the `content` of a route's answers: events, whose data are JSON."""


def event(data: dict[str, Any] | BaseModel, name: str | None = None) -> str:
    """One event; of a model, the fields that are set."""
    if isinstance(data, BaseModel):
        line = data.model_dump_json(exclude_unset=True)
    else:
        line = json.dumps(data, separators=(",", ":"))
    return f"data: {line}\n\n" if name is None else f"event: {name}\ndata: {line}\n\n"


def error_event(error: BaseException) -> str:
    """What went wrong after the stream had begun."""
    return event(api_error(error).body())


class EventStream(StreamingResponse):
    """An answer of server-sent events, of which the first is there. Their generator is closed however the
    answer ends, so a client that goes away ends its request."""

    media_type = "text/event-stream"

    def __init__(self, first: str, rest: AsyncGenerator[str, None]) -> None:
        self._first = first
        self._rest = rest
        # nginx would otherwise wait for a full buffer
        super().__init__(self._all(), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)

    async def _all(self) -> AsyncIterator[str]:
        yield self._first
        async for each in self._rest:
            yield each


async def begun(http: HttpRequest, events: AsyncGenerator[str, None]) -> EventStream:
    """The answer, once its first event is there: what goes wrong until then is told by an HTTP status. A
    client that goes away meanwhile ends its request."""
    try:
        return EventStream(await until_gone(http, anext(events)), events)
    except BaseException:
        await events.aclose()
        raise
