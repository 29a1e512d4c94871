"""The engine that serves just now: watched, and replaced by a fresh one where the operator wants that."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from antiphon.aio.async_engine import AsyncEngine
from antiphon.errors import EngineDead
from antiphon.kernels.late_compiles import LateCompiles
from antiphon.process.faults import log_fault

__all__ = ["EngineAway", "EngineKeeper"]

LOOK_S = 0.25
"""How often it is looked whether the engine lives."""
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0
"""The first failure is followed by a fresh engine at once, the second after the first delay, and each further
one after twice the delay before it, up to the longest."""
HEALTHY_S = 60.0
"""An engine that has served this long starts the delays anew."""

_LOG = logging.getLogger("antiphon.server")


class EngineAway(EngineDead):
    """There is no engine just now, but there will be one."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineKeeper:
    """Owns an engine of a server, from `start` to `close`."""

    def __init__(
        self,
        load: Callable[[], AsyncEngine],
        *,
        restart: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """load: makes an engine; called in a thread. restart: whether it is called again for one that has
        failed. clock: tells seconds, which `sleep` lets pass."""
        self._load = load
        self._restart = restart
        self._clock = clock
        self._sleep = sleep
        self._loaded_s = 0.0
        self._delay_s = 0.0
        """What the next fresh engine waits for."""
        self._due_s = 0.0
        """When the fresh engine that is waited for will be loaded."""
        self._engine: AsyncEngine | None = None
        self._watch: asyncio.Task[None] | None = None
        self.has_failed = asyncio.Event()
        """Set once no engine will serve any more."""
        self.load_error: BaseException | None = None
        """Why `start` could not load an engine."""
        self.num_restarts = 0
        self.late_compiles = LateCompiles()
        """Of the kernels, since an engine was loaded."""

    @property
    def engine(self) -> AsyncEngine:
        """The engine to ask. Raises EngineAway while there is none."""
        if self._engine is None:
            raise EngineAway(self.state, self.retry_after_s)
        return self._engine

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._engine is not None and self._engine.health().alive

    @property
    def state(self) -> str:
        """What the keeper does, for an operator."""
        if self.is_alive:
            return "the engine serves"
        if self.has_failed.is_set():
            return "the engine has failed, and the server ends"
        if self._engine is not None:
            return "the engine has failed"
        if (wait_s := self._due_s - self._clock()) > 0:
            return f"the engine has failed; a fresh one will be loaded in {math.ceil(wait_s)} s"
        return "the engine is being loaded"

    @property
    def retry_after_s(self) -> int:
        """When a client may ask again, in whole seconds."""
        return max(1, math.ceil(self._due_s - self._clock()))

    async def start(self) -> None:
        """Load the engine. Raises what loading raises."""
        try:
            self._engine = await asyncio.to_thread(self._load)
        except BaseException as error:
            self.load_error = error
            raise
        self.late_compiles.start()
        self._loaded_s = self._clock()
        self._watch = asyncio.create_task(self._look())

    async def close(self) -> None:
        """End the engine."""
        self.late_compiles.stop()
        if self._watch is not None:
            self._watch.cancel()
        if self._engine is not None:
            await self._engine.aclose()

    async def _look(self) -> None:
        while True:
            await self._sleep(LOOK_S)
            assert self._engine is not None
            if self._engine.health().alive:
                continue
            _LOG.error("the engine has failed: %s", self._engine.health().error)
            if not self._restart:
                self.has_failed.set()
                return
            failed, self._engine = self._engine, None
            self.late_compiles.stop()
            delay_s = self._next_delay_s()
            self._due_s = self._clock() + delay_s
            try:
                await failed.aclose()
                if delay_s:
                    _LOG.info("a fresh engine will be loaded in %g s", delay_s)
                    await self._sleep(delay_s)
                self._engine = await asyncio.to_thread(self._load)
            except Exception as error:  # noqa: BLE001 - whatever it is, the server ends
                log_fault("no fresh engine could be loaded", error=error)
                self.has_failed.set()
                return
            self._loaded_s = self._clock()
            self.late_compiles.start()
            self.num_restarts += 1
            _LOG.info("a fresh engine has taken over")

    def _next_delay_s(self) -> float:
        if self._clock() - self._loaded_s >= HEALTHY_S:
            self._delay_s = 0.0
        now_s = self._delay_s
        self._delay_s = min(MAX_DELAY_S, max(FIRST_DELAY_S, 2 * now_s))
        return now_s
