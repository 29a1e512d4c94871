"""An application behind a socket, from its first connection to the end of its last request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import FrameType

import uvicorn

from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.app import create_app
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings

__all__ = ["Server", "serve"]

KEEP_ALIVE_S = 75
"""How long an idle connection is kept; longer than what usual proxies keep theirs."""
CLOSE_S = 5
"""How long connections may take to close once all requests have ended."""

_LOG = logging.getLogger("antiphon.server")


class Server(uvicorn.Server):
    """uvicorn, which drains before it ends: a signal stops it from taking requests, and those that run have
    `drain_timeout_s`. A second signal aborts them at once."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self.service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = ready
        self._draining: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.should_exit:
            return
        self._loop = asyncio.get_running_loop()
        self._watch = asyncio.create_task(self._until_failure())
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal, in the main thread, between any two instructions."""
        if self._loop is None:  # not serving yet
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
        else:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            _LOG.info("draining: %d requests are running", self.service.num_running)
            await self.service.drain()
        finally:
            self.should_exit = True

    async def _until_failure(self) -> None:
        await self.service.keeper.has_failed.wait()
        self.should_exit = True


def serve(
    load: Callable[[], AsyncEngine], settings: ServerSettings, ready: Callable[[str], None] = lambda _: None
) -> bool:
    """Serve until a signal, or until the engine has failed for good. Returns whether it ended in order.

    ready: called with the server's address once it answers.
    """
    app = create_app(load, settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
        h11_max_incomplete_event_size=64 << 10,
    )
    server = Server(config, app.state.service, ready)
    server.run()
    return server.started and not server.service.keeper.has_failed.is_set()
