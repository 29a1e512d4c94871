"""One replica: an engine behind the server's routes, in a process that Serve starts, watches and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.aio.async_engine import AsyncEngine
from antiphon.errors import EngineDead
from antiphon.scale.codec_replicas import CodecReplicas
from antiphon.scale.leaving import is_leaving
from antiphon.scale.load import waiting_audio_s
from antiphon.server.app import create_app
from antiphon.server.log import logs_written
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings
from antiphon.types import Completion, Event, Request, SamplingParams

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Replica"]

LOOK_S = 0.2
"""How often a replica checks whether it is to end."""


class Replica:
    """What Serve makes a replica of, under `serve.ingress`: Serve calls its methods by their names.

    Other deployments call `generate` and `stream` by a handle.
    """

    def __init__(
        self,
        model: str | None,
        arguments: Mapping[str, Any],
        settings: ServerSettings,
        codec: Any = None,
        num_lanes: int = 1,
    ) -> None:
        """arguments: of `Engine`. codec: the handle of the deployment that makes its speech; None: it makes
        that itself. num_lanes: batches that it has made there at a time."""
        self._model = model
        self._arguments = dict(arguments)
        self._settings = settings
        if codec is not None:
            self._arguments["vocoders"] = partial(CodecReplicas, handle=codec, num_lanes=num_lanes)
        self._ending = ExitStack()
        self._ending.enter_context(logs_written(settings.log_format))

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, which Serve starts, and ends with the replica. The engine is loaded here: of what
        happens while an application starts, Serve does not say what it was. Raises what `Engine` does."""
        from ray import serve

        name = serve.get_replica_context().replica_id.unique_id
        engine = await asyncio.to_thread(self._load)
        app = create_app(lambda: engine, replace(self._settings, replica=name))
        self._service: Service = app.state.service
        self._watch = asyncio.create_task(self._leave_in_order())
        return app

    async def _leave_in_order(self) -> None:
        """End conversations once Serve has begun to end this replica: it would wait for them, and at last cut
        them off. Requests end by themselves. Even then a proxy that has not heard of it may bring another."""
        while True:
            if is_leaving():
                await self._service.end_conversations()
            await asyncio.sleep(LOOK_S)

    def _load(self) -> AsyncEngine:
        return AsyncEngine(self._model, **self._arguments)

    # --- what Serve asks --------------------------------------------------------------------------

    async def check_health(self) -> None:
        """Raises EngineDead once the engine has failed: Serve then replaces the replica."""
        keeper = self._service.keeper
        if not keeper.is_alive:
            raise EngineDead(keeper.state)

    async def record_routing_stats(self) -> dict[str, float]:
        """What `ConversationRouter` routes by."""
        return self._load_now()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `WaitingAudio` scales by."""
        return self._load_now()

    def _load_now(self) -> dict[str, float]:
        service = self._service
        if not service.keeper.is_alive:
            return {"waiting_audio_s": 0.0}
        return {"waiting_audio_s": waiting_audio_s(service.engine.health(), service.metrics.mean_audio_s)}

    # --- what an operator and other deployments ask -------------------------------------------------

    async def drain(self) -> None:
        """Take no more requests, and return when those that run have ended, see `Service.drain`."""
        await self._service.drain()

    async def generate(self, request: Request, params: SamplingParams | None = None) -> Completion:
        """`AsyncEngine.generate`, bounded and counted like the requests that come by HTTP."""
        return await self._service.complete(request, params)

    async def stream(self, request: Request, params: SamplingParams | None = None) -> AsyncIterator[Event]:
        """`AsyncEngine.stream`, likewise; for `handle.options(stream=True)`."""
        async with aclosing(self._service.stream(request, params)) as events:
            async for event in events:
                yield event
