"""A client's session, whichever dialect it speaks: a conversation, what goes out, and how it ends."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from antiphon.aio.conversation.conversation import Conversation
from antiphon.aio.conversation.events import (
    ConversationEvent,
    ReplyBegun,
    ReplyEnded,
    SpeechStopped,
)
from antiphon.aio.conversation.items import new_id
from antiphon.aio.conversation.replying import Speculation
from antiphon.aio.conversation.settings import ConversationSettings
from antiphon.errors import EngineDead, InvalidRequest
from antiphon.process.faults import log_fault
from antiphon.server.errors import ApiError, api_error
from antiphon.server.json_body import parsed
from antiphon.server.realtime.outbox import Outbox
from antiphon.server.service import Service

__all__ = ["FULL", "GOING_AWAY", "NORMAL", "POLICY", "Talk"]

NORMAL, GOING_AWAY, POLICY, BROKEN, FULL = 1000, 1001, 1008, 1011, 1013
"""Codes that a WebSocket is closed with."""


class Talk(ABC):
    """One session. It outlives the socket that it began with, if its client comes back in time."""

    can_return = True
    """Whether a client whose connection was lost may come back."""

    def __init__(self, service: Service, settings: ConversationSettings, *, is_numbered: bool = True) -> None:
        self.service = service
        self.session_id = new_id("sess")
        self.token = service.settings.named(secrets.token_urlsafe(24))
        """What a client shows that comes back."""
        self.expires_s = int(time.time() + service.settings.realtime_session_s)
        self.taking = asyncio.Lock()
        """Held while a socket takes it."""
        self.outbox = Outbox(is_numbered=is_numbered)
        self.close_code, self.close_reason = NORMAL, ""
        self.has_ended = asyncio.Event()
        """Set when nothing of it is left but what waits for the client."""
        self.conversation: Conversation = service.engine.converse(settings)
        self.pushed_s = 0.0
        """Length of the sound that came in."""
        self._is_ending = False
        self._spoken: dict[str, bool] = {}
        """Whether each reply under way is spoken, by its id."""
        self._counted = Speculation()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_replies(self) -> int:
        """Replies that are being made."""
        return len(self._spoken)

    async def start(self) -> None:
        """Begin the conversation, and tell the client."""
        await self.conversation.__aenter__()
        self.greet()
        self._do(self._tell_all())

    async def receive(self, text: str | bytes) -> None:
        """What the client sends. Whatever is wrong with it is told, and the session goes on."""
        event_id: str | None = None
        try:
            if isinstance(text, bytes):
                raise ApiError(400, "expected events as text, got a binary message", code="invalid_json")
            try:
                fields = await parsed(text.encode())
            except (ValueError, RecursionError) as error:
                raise ApiError(400, "the event is not valid JSON", code="invalid_json") from error
            if not isinstance(fields, dict):
                raise ApiError(400, "the event: expected a JSON object", code="invalid_json")
            given = fields.get("event_id", fields.get("client_event_id"))
            event_id = given[:512] if isinstance(given, str) else None
            await self.obey(fields)
        except Exception as error:  # noqa: BLE001 - the client is told
            if not self._is_ending:
                self.tell_error(api_error(error), event_id)

    async def end(self, code: int = NORMAL, reason: str = "", error: ApiError | None = None) -> None:
        """End the conversation and let the client have its last events. error: told before them."""
        if not self._is_ending:
            self._is_ending = True
            self.close_code, self.close_reason = code, reason
            if error is not None:
                self.tell_error(error, None)
            with suppress(Exception):
                await self.conversation.aclose()
        await self.has_ended.wait()

    @abstractmethod
    def greet(self) -> None:
        """Send the first event."""

    @abstractmethod
    async def obey(self, fields: dict[str, Any]) -> None:
        """Do what a client's event asks for. Raises ApiError or what the engine raises."""

    @abstractmethod
    async def tell(self, event: ConversationEvent) -> None:
        """Send what an event of the conversation means."""

    @abstractmethod
    def tell_error(self, error: ApiError, event_id: str | None) -> None:
        """Send an error. event_id: that of the client's event which caused it."""

    @abstractmethod
    def bid_farewell(self) -> None:
        """Send the last event, if there is one of the kind."""

    # --- inside -----------------------------------------------------------------------------------

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_all(self) -> None:
        try:
            async for event in self.conversation:
                self._note(event)
                try:
                    await self.tell(event)
                except Exception as error:  # noqa: BLE001 - the session goes on
                    log_fault("an event of a conversation could not be told", error=error)
                if self.outbox.is_full and not self._is_ending:
                    self._do(self.end(POLICY, "the client is too far behind"))
            self.bid_farewell()
        finally:
            self._is_ending = True
            self._count()
            self.outbox.end()
            self.has_ended.set()

    def _note(self, event: ConversationEvent) -> None:
        """Count what an operator wants to know."""
        metrics = self.service.metrics
        if isinstance(event, SpeechStopped):
            metrics.note_turn(max(0.0, self.pushed_s - event.at_s))
            self._count()
        elif isinstance(event, ReplyBegun):
            self._spoken[event.reply_id] = "audio" in event.options.modalities
            self._count()
        elif isinstance(event, ReplyEnded):
            metrics.note_reply(event, speaks=self._spoken.pop(event.reply_id))
            if event.status == "failed" and not self._engine_lives():
                self._do(self.end(BROKEN, "the engine has failed"))

    def _count(self) -> None:
        now, before = self.conversation.speculation, self._counted
        self.service.metrics.note_speculation(
            now.num_confirmed - before.num_confirmed,
            now.num_dropped - before.num_dropped,
            now.num_dropped_units - before.num_dropped_units,
        )
        self._counted = Speculation(**vars(now))

    def _engine_lives(self) -> bool:
        try:
            return self.service.engine.health().alive
        except (EngineDead, InvalidRequest):
            return False
