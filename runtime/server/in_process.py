"""An application asked from inside its process, without a socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

__all__ = ["InProcessAnswer", "post"]


@dataclass(frozen=True)
class InProcessAnswer:
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


async def post(app: ASGIApp, path: str, body: bytes) -> InProcessAnswer:
    """POST a JSON body. The client stays until it has its answer; cancelling this is its leaving."""
    headers = [
        (b"host", b"in-process"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("in-process", 0),
        "server": ("in-process", 0),
    }
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    begun: list[Message] = []
    pieces: list[bytes] = []
    has_ended = False

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # it never leaves
        raise AssertionError("an event that nobody sets")

    async def send(message: Message) -> None:
        nonlocal has_ended
        if message["type"] == "http.response.start":
            begun.append(message)
        else:
            pieces.append(message.get("body", b""))
            has_ended = not message.get("more_body", False)

    try:
        await app(scope, receive, send)
    except Exception:  # what the framework has answered with status 500 is raised again, for a server's log
        if not has_ended:
            raise
    [start] = begun
    names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    return InProcessAnswer(start["status"], names, b"".join(pieces))
