"""An application behind a socket, from its first connection to the end of its last request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.app import create_app
from antiphon.server.reference.ports import open_ports
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings
from antiphon.server.site import Site, address_of, http_config

__all__ = ["Server", "serve"]

_LOG = logging.getLogger("antiphon.server")


class Server(uvicorn.Server):
    """uvicorn, which drains before it ends: a signal stops it from taking requests, and those that run have
    `drain_timeout_s`. A second signal aborts them at once. Its sites answer as long as it does."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        ready: Callable[[str], None],
        sites: Sequence[Site] = (),
    ) -> None:
        super().__init__(config)
        self.service = service
        self.sites = sites
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
        for site in self.sites:
            await site.start()
        self._ready(address_of(self.servers[0].sockets[0]))

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await asyncio.gather(*(site.stop() for site in self.sites))
        await super().shutdown(sockets)  # type: ignore[arg-type]

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
    load: Callable[[], AsyncEngine],
    settings: ServerSettings,
    ready: Callable[[str], None] = lambda _: None,
    site_ready: Callable[[str, str], None] = lambda _, __: None,
) -> bool:
    """Serve until a signal, or until the engine has failed for good. Returns whether it ended in order.

    ready: called with the server's address once it and its sites answer. site_ready: called before that with
    the name and the address of each other site.
    """
    app = create_app(load, settings)
    service: Service = app.state.service
    sites = open_ports(service, settings.reference) if settings.reference is not None else []

    def all_ready(address: str) -> None:
        for site in sites:
            site_ready(site.name, site.address)
        ready(address)

    server = Server(http_config(app, host=settings.host, port=settings.port), service, all_ready, sites)
    try:
        server.run()
    finally:
        for site in sites:
            site.close()
    return server.started and not service.keeper.has_failed.is_set()
