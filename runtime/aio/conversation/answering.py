"""What a conversation needs of the engine that it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from antiphon.aio.event_stream import EventStream
    from antiphon.aio.health import Health
    from antiphon.aio.session import Session
    from antiphon.engine.engine import Engine
    from antiphon.types import Completion, Request, SamplingParams

__all__ = ["Answering"]


class Answering(Protocol):
    """An `AsyncEngine`, which makes conversations, as they see it."""

    @property
    def engine(self) -> Engine:
        """To read its settings."""
        ...

    def open(self, request: Request, sampling_params: SamplingParams | None = None) -> Session: ...

    def stream(self, request: Request, sampling_params: SamplingParams | None = None) -> EventStream: ...

    async def generate(
        self, request: Request, sampling_params: SamplingParams | None = None
    ) -> Completion: ...

    async def confirm(self, request_id: str, confirmed_s: float | None = None) -> bool: ...

    def health(self) -> Health: ...
