"""An application behind a socket, from its first connection to the end of its last request."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.app import create_app
from antiphon.server.reference.ports import open_ports
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings
from antiphon.server.site import Site, address_of, bound, http_config

__all__ = ["Server", "serve"]

TWICE_S = 0.2
"""Within this time, repeats of a signal count once: `timeout` signals a process and then its group."""

_LOG = logging.getLogger("antiphon.server")


class Server(uvicorn.Server):
    """uvicorn, which drains before it ends: a signal stops it from taking requests, and those that run have
    `drain_timeout_s`. A second signal aborts them at once. Its sites answer as long as it does.

    What is wrong with loading is in `service.keeper.load_error` when it raises SystemExit.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        ready: Callable[[str], None],
        sites: Sequence[Site] = (),
        give_up: Callable[[int], object] | None = None,
    ) -> None:
        """give_up: called with the number of a signal that comes before it serves; None: it ends once the
        engine is loaded."""
        super().__init__(config)
        self._give_up = give_up
        self._signalled_s = float("-inf")
        self.service = service
        self.sites = sites
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = ready
        self._draining: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        log = logging.getLogger("uvicorn.error")
        was_disabled, log.disabled = log.disabled, True  # it shows the traceback of a model that is not there
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        finally:
            log.disabled = was_disabled
        if self.should_exit:
            return
        self._loop = asyncio.get_running_loop()
        self._watch = asyncio.create_task(self._until_failure())
        for site in self.sites:
            await site.start()
        self._ready(address_of(self.servers[0].sockets[0]))

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await asyncio.gather(*(site.stop() for site in self.sites))
        await super().shutdown(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal, in the main thread, between any two instructions."""
        if self._loop is None:
            if self._give_up is not None:
                self._give_up(sig)
            self.should_exit = True
        elif time.monotonic() - self._signalled_s > TWICE_S:
            self._signalled_s = time.monotonic()
            self._loop.call_soon_threadsafe(self._end, sig)

    def _end(self, number: int) -> None:
        if number == signal.SIGINT and sys.stderr.isatty():
            sys.stderr.write("\n")  # after `^C`
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
    load: Callable[[], AsyncEngine],
    settings: ServerSettings,
    ready: Callable[[str], None] = lambda _: None,
    site_ready: Callable[[str, str], None] = lambda _, __: None,
    give_up: Callable[[int], object] | None = None,
) -> bool:
    """Serve until a signal, or until the engine has failed for good. Returns whether it ended in order.

    ready: called with the server's address once it and its sites answer. site_ready: called before that with
    the name and the address of each other site. give_up: see `Server`. Raises what loading raises, and
    ConfigError for a port that cannot be bound.
    """
    app = create_app(load, settings)
    service: Service = app.state.service
    keeper = service.keeper
    listening = bound("server", settings.host, settings.port)
    sites = open_ports(service, settings.reference) if settings.reference is not None else []

    def all_ready(address: str) -> None:
        for site in sites:
            site_ready(site.name, site.address)
        ready(address)

    server = Server(
        http_config(app, settings.send_timeout_s, max_message_bytes=settings.realtime_max_message_bytes),
        service,
        all_ready,
        sites,
        give_up,
    )
    try:
        server.run([listening])
    except SystemExit:
        if keeper.load_error is not None:
            raise keeper.load_error from None
        raise
    finally:
        listening.close()
        for site in sites:
            site.close()
    return server.started and not keeper.has_failed.is_set()
