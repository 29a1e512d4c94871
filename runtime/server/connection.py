"""A connection whose client must go on reading."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

__all__ = ["reading_protocol", "reading_websocket"]

_LOG = logging.getLogger("antiphon.server")


def reading_protocol(send_timeout_s: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which breaks a connection off once its client has taken nothing for this time of
    what waits for it. Its request then ends like that of any client that goes away.

    A timeout of the application's sends would not do: only breaking off gets rid of what waits.
    """
    return _reading(AutoHTTPProtocol, send_timeout_s)


def reading_websocket(send_timeout_s: float) -> type[asyncio.Protocol]:
    """The same for WebSockets."""
    return _reading(AutoWebSocketsProtocol, send_timeout_s)


def _reading(base: Any, send_timeout_s: float) -> type[asyncio.Protocol]:
    class ReadingProtocol(base):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None
        _num_left = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # so that it is told whenever something waits

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop()
            super().connection_lost(error)

        def _wait(self) -> None:
            self._num_left = self.transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(send_timeout_s, self._look)

        def _look(self) -> None:
            if self.transport.get_write_buffer_size() < self._num_left:
                self._wait()
                return
            _LOG.warning("a client has read nothing for %g s: its connection is broken off", send_timeout_s)
            self.transport.abort()

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return ReadingProtocol
