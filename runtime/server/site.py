"""Another application on a port of its own, in the event loop of a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from antiphon.errors import ConfigError
from antiphon.server.connection import reading_protocol, reading_websocket

__all__ = ["Site", "address_of", "bound", "http_config"]

KEEP_ALIVE_S = 75
"""How long an idle connection is kept; longer than what usual proxies keep theirs."""
PING_S = 20.0
"""How often a WebSocket is asked whether somebody is there, and how long the answer may take."""
MAX_MESSAGE_BYTES = 1 << 20
CLOSE_S = 5
"""How long connections may take to close once all requests have ended."""


def http_config(
    app: Any, send_timeout_s: float, *, max_message_bytes: int = MAX_MESSAGE_BYTES, **settings: Any
) -> uvicorn.Config:
    """How all our applications are served. send_timeout_s: see `ServerSettings`. max_message_bytes: the
    largest message on a WebSocket."""
    return uvicorn.Config(
        app,
        http=reading_protocol(send_timeout_s),
        ws=reading_websocket(send_timeout_s),
        ws_max_size=max_message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # sound does not get smaller
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
        h11_max_incomplete_event_size=64 << 10,
        **settings,
    )


def address_of(listening: socket.socket) -> str:
    """The URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bound(name: str, host: str, port: int) -> socket.socket:
    """A socket bound to a port, which does not listen yet. `ConfigError` if the port cannot be bound.

    name: what it is for, for the operator.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise ConfigError(f"{name}: port {port} of {host}: {error.strerror or error}") from error
    return made


class Site:
    """Bound to its port from the beginning, so that a port that is taken is told at once; it answers from
    `start` to `stop`."""

    def __init__(
        self,
        name: str,
        app: Any,
        host: str,
        port: int,
        on_close: Callable[[], None] = lambda: None,
        *,
        send_timeout_s: float,
    ) -> None:
        """name: for the operator. on_close: called at the end. send_timeout_s: see `ServerSettings`.
        `ConfigError` if the port cannot be bound."""
        self.name = name
        self._on_close = on_close
        self._server = uvicorn.Server(http_config(app, send_timeout_s, lifespan="off"))
        self._ticks: asyncio.Task[None] | None = None
        self._socket = bound(name, host, port)
        self.address = address_of(self._socket)

    async def start(self) -> None:
        """Answer from now on."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup([self._socket])
        self._ticks = asyncio.create_task(self._server.main_loop())

    async def stop(self) -> None:
        """Close all connections, those of running requests when they have ended or after `CLOSE_S`."""
        if self._ticks is not None:
            self._server.should_exit = True
            await self._ticks
            await self._server.shutdown([self._socket])
        self.close()

    def close(self) -> None:
        """Let go of the port; for a server that never started, too."""
        self._socket.close()
        self._on_close()
