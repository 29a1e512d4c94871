"""A server on a port of this machine, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2

from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.app import create_app
from antiphon.server.realtime.talks import Talks
from antiphon.server.reference.ports import open_ports
from antiphon.server.running import Server
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings
from antiphon.server.site import http_config

__all__ = ["Served", "serving_http"]

T = TypeVar("T")


class Served:
    """A server that runs, its address, and a client for it."""

    def __init__(self, address: str, service: Service, server: Server, talks: Talks) -> None:
        self.address = address
        self.service = service
        self.server = server
        self.talks = talks
        self.sites = {site.name: site.address for site in server.sites}
        """By their names, the addresses of the reference ports, if they were asked for."""
        self.http = httpx2.Client(base_url=address, timeout=60)

    @property
    def engine(self) -> AsyncEngine:
        return self.service.engine

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done in the server's event loop."""
        loop = self.server._loop
        assert loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


@contextmanager
def serving_http(load: Callable[[], AsyncEngine] | None = None, **settings: Any) -> Iterator[Served]:
    """Serve an engine, or the packaged model, until the block ends.

    load: makes the engine. settings: of `ServerSettings`.
    """
    served = ServerSettings(port=0, **settings)
    app = create_app(load or _packaged, served)
    config = http_config(
        app,
        served.send_timeout_s,
        max_message_bytes=served.realtime_max_message_bytes,
        host=served.host,
        port=0,
    )
    addresses: queue.Queue[str] = queue.Queue()
    sites = open_ports(app.state.service, served.reference) if served.reference is not None else []
    server = Server(config, app.state.service, addresses.put, sites)
    thread = threading.Thread(target=server.run, name="http-server")
    thread.start()
    try:
        while True:
            try:
                address = addresses.get(timeout=0.1)
                break
            except queue.Empty:
                assert thread.is_alive(), "the server has ended before it began"
        running = Served(address, app.state.service, server, app.state.talks)
        with running.http:
            yield running
    finally:
        server.should_exit = True
        thread.join()


def _packaged() -> AsyncEngine:
    return AsyncEngine(device="cpu", progress=False, kv_cache_bytes=64 << 20)
