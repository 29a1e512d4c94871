"""The HTTP application: its routes, and what it owns while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

import antiphon
from antiphon.aio.async_engine import AsyncEngine
from antiphon.server.document import describe
from antiphon.server.errors import add_handlers
from antiphon.server.gate import Gate
from antiphon.server.keeper import EngineKeeper
from antiphon.server.metrics import Metrics
from antiphon.server.openai.audio_voices import voices
from antiphon.server.openai.chat import chat
from antiphon.server.openai.models import models
from antiphon.server.openai.responses import responses
from antiphon.server.openai.speech import speech
from antiphon.server.openai.transcriptions import transcriptions
from antiphon.server.operations import operations
from antiphon.server.page_routes import page
from antiphon.server.realtime.routes import realtime
from antiphon.server.realtime.talks import Talks
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings

__all__ = ["create_app"]

ROUTERS: tuple[Callable[[Service], Any], ...] = (
    operations,
    page,
    models,
    chat,
    responses,
    transcriptions,
    speech,
    voices,
)


def create_app(load: Callable[[], AsyncEngine], settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI application that serves the engine that `load` makes when it starts.

    `app.state.service` is its `Service`, and `app.state.talks` are its conversations.
    """
    settings = settings or ServerSettings()
    keeper = EngineKeeper(load, restart=settings.restart)
    service = Service(keeper, settings, Metrics(keeper))
    talks = Talks(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await keeper.start()
        try:
            yield
        finally:
            await talks.close()
            await keeper.close()

    # FastAPI's pages of documentation load scripts from elsewhere: there is the document alone.
    app = FastAPI(
        title="Antiphon", version=antiphon.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.state.talks = talks
    app.openapi = partial(describe, app, needs_key=bool(settings.api_keys))  # type: ignore[method-assign]
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router(service))
    app.include_router(realtime(service, talks))
    app.add_middleware(
        Gate,
        keys=settings.api_keys,
        max_body_bytes=settings.max_body_bytes,
        origins=settings.allowed_origins,
        find_secret=talks.secrets.find,
    )
    if settings.allowed_origins:  # outside of the gate: a browser asks first, without a key
        origins = list(settings.allowed_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return app
