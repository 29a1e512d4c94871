"""What the routes of all protocols share: one way from a request to its events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from fastapi import Request as HttpRequest

from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.errors import ApiError
from antiphon.server.keeper import EngineKeeper
from antiphon.server.kept_audio import KeptAudio
from antiphon.server.metrics import Metrics
from antiphon.server.settings import ServerSettings
from antiphon.types import Completion, Event, Finished, Request, SamplingParams

__all__ = ["Service", "until_gone"]

T = TypeVar("T")


class Service:
    """The engine as the routes see it: it counts requests, bounds their time, and aborts them at the end."""

    def __init__(self, keeper: EngineKeeper, settings: ServerSettings, metrics: Metrics) -> None:
        self.keeper = keeper
        self.settings = settings
        self.metrics = metrics
        self.started_s = int(time.time())
        """On the clock of `time.time`: when the models that are listed were made, for clients that ask."""
        self.kept_audio = KeptAudio(settings.audio_expiry_s, settings.max_kept_audio_bytes)
        """What was said in spoken replies that clients may refer to."""
        self.is_draining = False
        """Whether the server is about to end and takes no more requests."""
        self._running: set[str] = set()
        self._num_working = 0
        self._is_over = False
        """Whether the time to drain has passed."""
        self.on_drain: list[Callable[[float], Awaitable[None]]] = []
        """What ends in order when the server drains: called with the time by which it must have ended, on the
        clock of `time.monotonic`."""

    @property
    def engine(self) -> AsyncEngine:
        """The engine to ask. Raises EngineDead while there is none."""
        return self.keeper.engine

    @property
    def model_name(self) -> str:
        """The name that clients know the model by."""
        return self.settings.served_model_name or self.engine.engine.model_name

    @property
    def num_running(self) -> int:
        """Requests that have not had their last event."""
        return len(self._running)

    def check_model(self, name: str | None) -> str:
        """The model's name; ApiError 404 for another's."""
        if name is not None and name != self.model_name:
            raise ApiError(
                404,
                f"model: expected {self.model_name!r}, the one that is served, got {name[:100]!a}",
                param="model",
                code="model_not_found",
            )
        return self.model_name

    async def stream(
        self, request: Request, params: SamplingParams | None = None, *, is_part: bool = False
    ) -> AsyncGenerator[Event, None]:
        """The events of a request, `Finished` last. One that takes longer than the operator allows is
        aborted, and ends with finish_reason "abort". Raises what `AsyncEngine.stream` raises.

        Use it under `contextlib.aclosing`: it is left there, and the request aborted, when its client goes
        away. is_part: it belongs to `working` that has begun, so it is taken while the server drains.
        """
        self.check_open(is_part=is_part)
        engine = self.engine
        request_id = f"{request.request_id or 'request'}-{uuid.uuid4().hex}"
        request = replace(request, request_id=request_id)
        self._running.add(request_id)
        limit = asyncio.create_task(self._abort_late(request_id))
        completion: Completion | None = None
        try:
            with self.metrics.counted():
                async for event in engine.stream(request, params):
                    if isinstance(event, Finished):
                        completion = event.completion
                    yield event
        finally:
            limit.cancel()
            self._running.discard(request_id)
            self.metrics.note(completion)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in this block that is no request of the engine's, or several that belong together: the
        server's end waits for it as well."""
        self.check_open()
        self._num_working += 1
        try:
            yield
        finally:
            self._num_working -= 1

    async def complete(
        self, request: Request, params: SamplingParams | None = None, *, is_part: bool = False
    ) -> Completion:
        """The whole result of a request; ApiError for one that ended with an error."""
        async with aclosing(self.stream(request, params, is_part=is_part)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return checked(event.completion)
        raise AssertionError("a stream ended without Finished or an error")

    async def drain(self) -> None:
        """Take no more requests, wait for those that run, and abort them when the time is over."""
        self.is_draining = True
        deadline_s = time.monotonic() + self.settings.drain_timeout_s
        others = asyncio.ensure_future(self.end_conversations())
        while (self._running or self._num_working) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        await others
        self._is_over = True
        for request_id in list(self._running):
            await self._abort(request_id)

    async def end_conversations(self) -> None:
        """End each conversation when its replies are made, or when the time for that is over. Requests are
        still taken."""
        deadline_s = time.monotonic() + self.settings.drain_timeout_s
        await asyncio.gather(*(each(deadline_s) for each in self.on_drain))

    def check_open(self, *, is_part: bool = False) -> None:
        """ApiError 503 if nothing more is taken. is_part: see `stream`."""
        if self.is_draining and (self._is_over or not is_part):
            raise ApiError(503, "the server is shutting down", kind="server_error", code="shutting_down")

    async def _abort_late(self, request_id: str) -> None:
        await asyncio.sleep(self.settings.request_timeout_s)
        await self._abort(request_id)

    async def _abort(self, request_id: str) -> None:
        with suppress(Exception):  # of an engine that has died: its streams tell
            await self.engine.abort(request_id)


def checked(completion: Completion) -> Completion:
    """The completion; ApiError if it ended with an error."""
    if completion.finish_reason == "error":
        raise ApiError(500, completion.error or "the request failed", kind="server_error", code="failed")
    return completion


async def until_gone(http: HttpRequest, answer: Awaitable[T]) -> T:
    """What is awaited, unless the client goes away first: then it is cancelled, as is the caller."""
    task = asyncio.ensure_future(answer)
    watch = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise asyncio.CancelledError
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(BaseException):
                await each


async def _gone(http: HttpRequest) -> None:
    """Ends when the client has closed its connection. The body must have been read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
