"""What a conversation needs from the engine behind asyncio, which itself makes conversations."""

from __future__ import annotations

from typing import Protocol

from antiphon.aio.event_stream import EventStream
from antiphon.aio.session import Session
from antiphon.engine.engine import Engine
from antiphon.types import Completion, Request, SamplingParams

__all__ = ["Serving", "State"]


class State(Protocol):
    """See `Health`."""

    @property
    def alive(self) -> bool: ...

    @property
    def error(self) -> str | None: ...


class Serving(Protocol):
    """See `AsyncEngine`."""

    @property
    def engine(self) -> Engine: ...

    def stream(self, request: Request, sampling_params: SamplingParams | None = None) -> EventStream: ...

    def open(self, request: Request, sampling_params: SamplingParams | None = None) -> Session: ...

    async def generate(
        self, request: Request, sampling_params: SamplingParams | None = None
    ) -> Completion: ...

    async def confirm(self, request_id: str, confirmed_s: float | None = None) -> bool: ...

    def health(self) -> State: ...
