"""A small HTTP/1.1 client on asyncio's streams: it adds little to the times that it measures, and needs no
package that the server's users may not have."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Answer", "HttpClient", "HttpError", "server_sent_data"]

PIECE_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 16
MAX_HEADERS = 200
MAX_BODY_BYTES = 16 << 20
"""Of an answer that is read whole."""


class HttpError(Exception):
    """The connection could not be made, broke, or does not speak HTTP."""


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_used: bool = False

    def close(self) -> None:
        with suppress(OSError, RuntimeError):
            self.writer.close()


@dataclass
class Answer:
    """A status and headers (names in lower case), and a body that is still to be read."""

    status: int
    headers: dict[str, str]
    _reader: asyncio.StreamReader = field(repr=False)
    is_read: bool = False
    """Whether the body has come to its end, so that the connection can be used again."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises HttpError if it ends too early."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            async for piece in self._chunks():
                yield piece
        elif (length := self.headers.get("content-length")) is not None:
            async for piece in self._bytes(_number(length, 10)):
                yield piece
        else:
            while piece := await self._reader.read(PIECE_BYTES):
                yield piece
            return  # it ended with the connection
        self.is_read = True

    async def whole(self) -> bytes:
        """All of the body; HttpError for one that is too large."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise HttpError(f"expected a body of at most {MAX_BODY_BYTES} bytes, got more")
        return bytes(body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while num_bytes := _number((await _line(self._reader)).partition(";")[0], 16):
            async for piece in self._bytes(num_bytes):
                yield piece
            if await _line(self._reader):
                raise HttpError("expected the end of a chunk")
        while await _line(self._reader):  # trailers
            pass

    async def _bytes(self, left: int) -> AsyncIterator[bytes]:
        while left:
            if not (piece := await self._reader.read(min(left, PIECE_BYTES))):
                raise HttpError("the connection was closed in the middle of an answer")
            left -= len(piece)
            yield piece


class HttpClient:
    """Sends requests to one server, over connections that are kept and used again."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        """base_url: with or without a path. Raises ValueError for what is not http:// or https://."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected http://HOST:PORT or https://HOST:PORT, got {base_url!r}")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._headers = f"Host: {parts.netloc.rpartition('@')[2]}\r\nAccept: */*\r\n"
        if api_key is not None:
            self._headers += f"Authorization: Bearer {api_key}\r\n"
        if not all(c.isprintable() or c in "\r\n" for c in self._path + self._headers):
            raise ValueError("expected an address and a key of printable characters")
        self._idle: list[_Connection] = []

    @asynccontextmanager
    async def send(self, method: str, path: str, body: bytes = b"") -> AsyncIterator[Answer]:
        """Send a request with a JSON body, or none. Raises HttpError."""
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        message = head.encode() + b"\r\n" + body
        connection = await self._connection()
        try:
            try:
                answer = await _exchange(connection, message)
            except HttpError:
                if not connection.is_used:
                    raise
                connection.close()  # it was idle for too long, and its server has closed it
                connection = await self._new()
                answer = await _exchange(connection, message)
            yield answer
            if answer.is_read and answer.headers.get("connection", "").lower() != "close":
                connection.is_used = True
                self._idle.append(connection)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise HttpError(f"the connection broke: {error}") from error
        finally:
            if connection not in self._idle:
                connection.close()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.close()
        return await self._new()

    async def _new(self) -> _Connection:
        try:
            opened = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, limit=MAX_LINE_BYTES
            )
        except OSError as error:
            raise HttpError(f"cannot connect to {self._host}:{self._port}: {error}") from error
        return _Connection(*opened)


async def server_sent_data(answer: Answer) -> AsyncIterator[bytes]:
    """The data of each server-sent event, as it is complete."""
    buffer, data = bytearray(), bytearray()
    async for piece in answer.pieces():
        buffer += piece
        lines = buffer.split(b"\n")
        buffer = lines.pop()
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line and data:
                yield bytes(data[:-1])
                data.clear()
            elif line.startswith(b"data:"):
                data += line[5:].removeprefix(b" ") + b"\n"


async def _exchange(connection: _Connection, message: bytes) -> Answer:
    """Sends a request, and reads the head of its answer."""
    try:
        connection.writer.write(message)
        with suppress(ConnectionError):  # an answer may have come before all was sent
            await connection.writer.drain()
        version, _, rest = (await _line(connection.reader)).partition(" ")
        if not version.startswith("HTTP/1."):
            raise HttpError("expected an answer of HTTP/1.1")
        status, headers = _number(rest[:3], 10), {}
        while line := await _line(connection.reader):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
            if len(headers) > MAX_HEADERS:
                raise HttpError(f"expected at most {MAX_HEADERS} headers, got more")
    except OSError as error:
        raise HttpError(f"the connection broke: {error}") from error
    return Answer(status, headers, connection.reader)


async def _line(reader: asyncio.StreamReader) -> str:
    """A line without its end."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        raise HttpError("the connection was closed in the middle of an answer") from error
    except asyncio.LimitOverrunError as error:
        raise HttpError(f"expected lines of at most {MAX_LINE_BYTES} bytes, got more") from error
    return line.rstrip(b"\r\n").decode("latin-1")


def _number(text: str, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        number = -1
    if number < 0:
        raise HttpError(f"expected a number, got {text[:20]!r}")
    return number
