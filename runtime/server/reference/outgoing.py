"""POST to a worker of another process: over one connection, without redirects, bounded in time and size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import h11

from antiphon.errors import InvalidRequest

__all__ = ["WorkerLost", "check_url", "post", "post_for_json"]

CONNECT_S = 5.0
STATUS_S = 5.0
"""How long a worker may take to tell its status."""
SILENCE_S = 100.0
"""How long a worker may be silent while it answers: what the released page allows."""
MAX_STATUS_BYTES = 1 << 20
READ_BYTES = 1 << 16
MAX_URL_CHARS = 1000


class WorkerLost(Exception):
    """A worker that does not answer, or not as it should."""


def check_url(url: str) -> str:
    """A worker's URL without a slash at its end; `InvalidRequest` if it is not one."""
    url = url.rstrip("/")
    is_text = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL_CHARS
    if not is_text or not _is_plain(url):
        raise InvalidRequest("worker_name: expected the URL of a worker, such as http://localhost:40001")
    return url


async def post(url: str, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
    """The pieces of an answer, as they come. Raises `WorkerLost`."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(parts.hostname, port, ssl=secure or None, limit=READ_BYTES), CONNECT_S
        )
    except (OSError, asyncio.TimeoutError, UnicodeError) as error:
        raise WorkerLost("cannot be reached") from error
    try:
        connection = h11.Connection(h11.CLIENT)
        writer.write(_request(connection, parts, path, body))
        await asyncio.wait_for(writer.drain(), SILENCE_S)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await asyncio.wait_for(reader.read(READ_BYTES), SILENCE_S))
            elif isinstance(event, h11.Response) and event.status_code != 200:
                raise WorkerLost(f"answered with status {event.status_code}")
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return
    except (OSError, asyncio.TimeoutError, h11.ProtocolError) as error:
        raise WorkerLost("was lost") from error
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def post_for_json(url: str, path: str) -> Any:
    """An answer that is one JSON value. Raises `WorkerLost`."""
    try:
        return json.loads(await asyncio.wait_for(_whole(url, path), STATUS_S))
    except (asyncio.TimeoutError, ValueError, RecursionError) as error:
        raise WorkerLost("did not tell its status") from error


async def _whole(url: str, path: str) -> bytes:
    held = b""
    async with aclosing(post(url, path, b"{}")) as pieces:
        async for piece in pieces:
            held += piece
            if len(held) > MAX_STATUS_BYTES:
                raise WorkerLost("told too much")
    return held


def _is_plain(url: str) -> bool:
    """Whether it is a URL of a host and, perhaps, a port and a path."""
    try:
        parts = urlsplit(url)
        is_there = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_there and not parts.query and not parts.fragment and parts.username is None


def _request(connection: h11.Connection, parts: SplitResult, path: str, body: bytes) -> bytes:
    headers = [
        ("Host", parts.netloc),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    sent = connection.send(h11.Request(method="POST", target=parts.path + path, headers=headers))
    assert sent is not None
    return sent + (connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b"")
