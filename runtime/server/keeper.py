"""The engine that serves just now: watched, and replaced by a fresh one where the operator wants that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from antiphon.aio.async_engine import AsyncEngine
from antiphon.errors import EngineDead
from antiphon.process.faults import log_fault

__all__ = ["EngineKeeper"]

LOOK_S = 0.25
"""How often it is looked whether the engine lives."""

_LOG = logging.getLogger("antiphon.server")


class EngineKeeper:
    """Owns an engine of a server, from `start` to `close`."""

    def __init__(self, load: Callable[[], AsyncEngine], *, restart: bool = False) -> None:
        """load: makes an engine; called in a thread. restart: whether it is called again for one that has
        failed."""
        self._load = load
        self._restart = restart
        self._engine: AsyncEngine | None = None
        self._watch: asyncio.Task[None] | None = None
        self.has_failed = asyncio.Event()
        """Set once no engine will serve any more."""
        self.load_error: BaseException | None = None
        """Why `start` could not load an engine."""
        self.num_restarts = 0

    @property
    def engine(self) -> AsyncEngine:
        """The engine to ask. Raises EngineDead while there is none."""
        if self._engine is None:
            raise EngineDead("the engine is not there yet")
        return self._engine

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._engine is not None and self._engine.health().alive

    async def start(self) -> None:
        """Load the engine. Raises what loading raises."""
        try:
            self._engine = await asyncio.to_thread(self._load)
        except BaseException as error:
            self.load_error = error
            raise
        self._watch = asyncio.create_task(self._look())

    async def close(self) -> None:
        """End the engine."""
        if self._watch is not None:
            self._watch.cancel()
        if self._engine is not None:
            await self._engine.aclose()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            assert self._engine is not None
            if self._engine.health().alive:
                continue
            _LOG.error("the engine has failed: %s", self._engine.health().error)
            if not self._restart:
                self.has_failed.set()
                return
            failed, self._engine = self._engine, None
            try:
                await failed.aclose()
                self._engine = await asyncio.to_thread(self._load)
            except Exception as error:  # noqa: BLE001 - whatever it is, the server ends
                log_fault("no fresh engine could be loaded", error=error)
                self.has_failed.set()
                return
            self.num_restarts += 1
            _LOG.info("a fresh engine has taken over")
