"""The replies of a conversation: begun ahead, confirmed, cancelled, and cut to what was heard."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from antiphon.aio.conversation.events import (
    ConversationEvent,
    Heard,
    ItemAdded,
    ItemDone,
    ItemTruncated,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplySpoken,
    ReplyText,
)
from antiphon.aio.conversation.items import History, Item, heard_until
from antiphon.aio.conversation.reply import Failed, Reply
from antiphon.aio.conversation.settings import ReplyOptions
from antiphon.errors import InvalidRequest
from antiphon.plain import shown
from antiphon.types import (
    UNITS_PER_S,
    AudioDelta,
    Event,
    Finished,
    Message,
    RequestMetrics,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
    Units,
)

if TYPE_CHECKING:
    from antiphon.aio.async_engine import AsyncEngine
    from antiphon.aio.conversation.events import CancelReason, ReplyStatus

__all__ = ["Replying", "Speculation"]

MAX_PAST = 8
"""Replies whose sound may still be playing."""


@dataclass
class Speculation:
    """What beginning replies ahead has cost, and what it has brought."""

    num_begun: int = 0
    num_confirmed: int = 0
    num_dropped: int = 0
    num_dropped_units: int = 0
    """Units that were made for nothing."""


class Replying:
    """The part of a conversation that has replies made. Its methods are called by the conversation's task."""

    def __init__(
        self,
        engine: AsyncEngine,
        history: History,
        emit: Callable[[ConversationEvent], None],
        post: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """emit: gets events. post: has something done by the conversation's task, in its turn."""
        self.speculation = Speculation()
        self.lost: Callable[[str], None] = lambda turn_id: None
        """Gets the id of a turn whose transcript a dropped reply would have told."""
        self._engine = engine
        self._history = history
        self._emit = emit
        self._post = post
        self._ahead: Reply | None = None
        """A reply to a turn that may go on."""
        self._current: Reply | None = None
        """The one that is being made for the conversation."""
        self._aside: dict[str, Reply] = {}
        """Replies that are being made for the client alone, by id."""
        self._past: dict[str, Reply] = {}
        """Ended replies by their item's id, the last ones."""
        self._waiting: tuple[ReplyOptions, str] | None = None
        """A turn ended while a reply was being made that it must not interrupt: how to answer it."""

    # --- begun ------------------------------------------------------------------------------------

    def speculate(self, options: ReplyOptions, units: Units, turn_id: str) -> None:
        """Begin the reply to a turn that may be over. turn_id: the id that the turn's item will have."""
        self.drop_ahead()
        if self._current is not None:
            return  # it would not be said now
        reply = Reply(self._messages(options, also=(units,)), options, is_speculative=True)
        reply.turn_id = turn_id
        self._ahead = reply
        self.speculation.num_begun += 1
        reply.start(self._engine, self._tell)

    def drop_ahead(self) -> None:
        """The turn goes on, or was forgotten."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self.speculation.num_dropped += 1
            self.speculation.num_dropped_units += _num_units(ahead.held)
            ahead.drop()
            self._pass_on(ahead)

    def hears(self, turn_id: str) -> bool:
        """Whether the transcript of this turn will be told, since a reply to it is being made."""
        return self._ahead is not None and self._ahead.turn_id == turn_id

    def turn_is_over(self, turn_id: str) -> None:
        """The turn has become an item: tell its transcript, if the reply that was begun ahead knows it."""
        if self._ahead is not None and self._ahead.turn_id == turn_id:
            self._ahead.may_tell = True
            self._tell_heard(self._ahead)

    async def answer(self, options: ReplyOptions, turn_id: str) -> None:
        """Reply to a turn that has ended, now or when the reply before it has been made."""
        if self._current is not None:
            self._waiting = options, turn_id
        else:
            await self.respond(options, turn_id=turn_id)

    async def respond(
        self,
        options: ReplyOptions,
        *,
        items: Sequence[Item] | None = None,
        keep: bool = True,
        turn_id: str | None = None,
    ) -> str:
        """See `Conversation.respond`. turn_id: the item whose transcript is to be told."""
        if keep and self._current is not None:
            raise InvalidRequest("response: another is being made; cancel it first, or wait for its end")
        messages = self._messages(options, items)
        if not messages or messages[-1].role != "user":
            raise InvalidRequest("response: expected something of the user's to answer, got nothing new")
        reply = self._ahead
        if reply is not None and items is None and keep and reply.matches(messages, options):
            self._ahead = None
            self.speculation.num_confirmed += 1
            await reply.confirm(self._engine, time.perf_counter())
            reply.may_tell = True
            self._tell_heard(reply)
        else:
            self.drop_ahead()
            reply = Reply(messages, options, is_speculative=False)
            reply.turn_id, reply.may_tell = turn_id, True
            reply.start(self._engine, self._tell)
        reply.in_conversation = keep
        self._begin(reply)
        return reply.reply_id

    def _begin(self, reply: Reply) -> None:
        self._emit(ReplyBegun(reply.reply_id, reply.item_id, reply.options))
        if reply.in_conversation:
            self._current = reply
            item = Item("assistant", item_id=reply.item_id, is_spoken=reply.is_spoken, status="in_progress")
            self._emit(ItemAdded(item, self._history.add(item)))
        else:
            self._aside[reply.reply_id] = reply
        held, reply.held = reply.held, []
        for event in held:
            self._say(reply, event)

    def _messages(
        self, options: ReplyOptions, items: Sequence[Item] | None = None, also: tuple[Units, ...] = ()
    ) -> list[Message]:
        history = self._history
        if items is not None:
            history = History()
            for item in items:
                history.add(item)
        return history.messages(options.system, also)

    # --- being made -------------------------------------------------------------------------------

    def _tell(self, reply: Reply, event: Event | Failed) -> None:
        self._post(partial(self._take, reply, event))

    async def _take(self, reply: Reply, event: Event | Failed) -> None:
        if reply.has_ended:
            return
        if isinstance(event, TranscriptDelta):
            reply.transcript += event.text
            return
        if reply.heard is None:  # the transcript comes before all else
            reply.heard = event if isinstance(event, Failed) else reply.transcript
            self._tell_heard(reply)
        if reply.is_confirmed:
            self._say(reply, event)
        else:
            reply.held.append(event)

    def _pass_on(self, reply: Reply) -> None:
        """Have another tell the transcript that this reply would have told, if its turn is over."""
        turn_id, reply.turn_id = reply.turn_id, None
        if turn_id is not None and reply.may_tell:
            self.lost(turn_id)

    def _tell_heard(self, reply: Reply) -> None:
        turn_id = reply.turn_id
        if turn_id is None or reply.heard is None or not reply.may_tell:
            return
        reply.turn_id = None
        if isinstance(reply.heard, Failed):
            self._emit(NotHeard(turn_id, reply.heard.error))
            return
        text, seconds = reply.heard.strip(), 0.0
        if self._history.holds(turn_id):
            item = self._history.find(turn_id)
            units = [part for part in item.parts if isinstance(part, Units)]
            seconds = sum(len(part.units) for part in units) / UNITS_PER_S
            self._history.change(replace(item, transcript=text))
        self._emit(Heard(turn_id, text, seconds))

    def _say(self, reply: Reply, event: Event | Failed) -> None:
        """Tell what has become known of a confirmed reply."""
        ids = reply.reply_id, reply.item_id
        if isinstance(event, TextDelta):
            reply.text += event.text
            self._emit(ReplyText(*ids, event.text))
        elif isinstance(event, UnitDelta):
            before = reply.spoken_chars[-1] if reply.spoken_chars else 0
            reply.num_units += len(event.units)
            reply.spoken_chars += event.spoken_chars
            if event.spoken_chars and event.spoken_chars[-1] != before:
                self._emit(ReplySpoken(*ids, event.spoken_chars[-1], len(reply.spoken_chars) / UNITS_PER_S))
        elif isinstance(event, AudioDelta):
            start_s = reply.sent(event)
            self._emit(ReplyAudio(*ids, event.samples, event.sample_rate_hz, start_s))
        elif isinstance(event, Failed):
            self._end(reply, "failed", error=event.error)
        elif isinstance(event, Finished):
            reply.completion = done = event.completion
            if len(done.text) > len(reply.text):
                self._emit(ReplyText(*ids, done.text[len(reply.text) :]))
            reply.text, reply.spoken_chars = done.text, list(done.spoken_chars)
            if done.finish_reason == "error":
                self._end(reply, "failed", error=done.error or "the request failed")
            elif done.finish_reason == "length":
                self._end(reply, "incomplete", "max_output_tokens")
            else:
                self._end(reply, "completed" if done.finish_reason == "stop" else "cancelled")

    # --- ended ------------------------------------------------------------------------------------

    def _end(
        self,
        reply: Reply,
        status: ReplyStatus,
        reason: CancelReason | str | None = None,
        error: str | None = None,
    ) -> None:
        reply.drop()
        self._pass_on(reply)
        if reply.in_conversation:
            item = Item(
                "assistant",
                (reply.text,) if reply.text else (),
                reply.item_id,
                is_spoken=reply.is_spoken,
                spoken_chars=tuple(reply.spoken_chars),
                status="completed" if status == "completed" else "incomplete",
            )
            if status == "cancelled" and reply.is_spoken:
                item = heard_until(item, reply.heard_s)
            self._history.change(item)
            if self._history.holds(reply.item_id):
                self._emit(ItemDone(item, self._history.previous_id(reply.item_id)))
            self._past[reply.item_id] = reply
            for item_id in list(self._past)[:-MAX_PAST]:
                del self._past[item_id]
        completion = reply.completion
        self._emit(
            ReplyEnded(
                reply.reply_id,
                reply.item_id,
                status,
                reason,  # type: ignore[arg-type]
                error,
                completion.metrics if completion is not None else RequestMetrics(),
                len(completion.text_ids) if completion is not None else reply.num_text,
                reply.num_units,
            )
        )
        self._aside.pop(reply.reply_id, None)
        if self._current is reply:
            self._current = None
            if self._waiting is not None:
                waiting, self._waiting = self._waiting, None
                self._post(partial(self.answer, *waiting))

    async def interrupt(self) -> None:
        """The user speaks: stop what is being made or played for the conversation."""
        self._waiting = None
        if self._current is not None:
            self._end(self._current, "cancelled", "turn_detected")
            return
        for reply in list(self._past.values())[-1:]:
            if reply.is_playing and self._history.holds(reply.item_id):
                seconds = reply.heard_s
                self.truncate(reply.item_id, seconds)
                self._emit(ItemTruncated(reply.item_id, seconds))

    async def cancel(self, reply_id: str | None) -> None:
        """See `Conversation.cancel`."""
        reply = self._current if reply_id is None else self._aside.get(reply_id)
        if reply is None and self._current is not None and self._current.reply_id == reply_id:
            reply = self._current
        if reply is None:
            named = "a reply" if reply_id is None else shown(reply_id)
            raise InvalidRequest(f"response_id: expected one that is being made, but {named} is not")
        self._end(reply, "cancelled", "client_cancelled")

    def truncate(self, item_id: str, audio_end_s: float) -> None:
        """See `Conversation.truncate`."""
        item = self._history.find(item_id)
        if item.role != "assistant" or not item.is_spoken:
            raise InvalidRequest(f"item_id: expected that of a spoken reply, got {shown(item_id)}")
        sent_s = self._past[item_id].sent_s if item_id in self._past else len(item.spoken_chars) / UNITS_PER_S
        if self._current is not None and self._current.item_id == item_id:
            sent_s = self._current.sent_s
        if not 0 <= audio_end_s <= sent_s + 1 / UNITS_PER_S:
            raise InvalidRequest(
                f"audio_end_ms: expected 0 to {round(sent_s * 1000)}, the reply's sound so far, "
                f"got {round(audio_end_s * 1000)}"
            )
        if self._current is not None and self._current.item_id == item_id:
            self._current.played(audio_end_s)
        if item_id in self._past:
            self._past[item_id].played(audio_end_s)
        self._history.change(heard_until(item, audio_end_s))

    def played(self, item_id: str, seconds: float) -> None:
        """See `Conversation.played`."""
        reply = self._past.get(item_id)
        if reply is None and self._current is not None and self._current.item_id == item_id:
            reply = self._current
        if reply is not None:
            reply.played(seconds)

    async def close(self) -> None:
        """Cancel what is being made."""
        self._waiting = None
        self.drop_ahead()
        for reply in [*self._aside.values(), *([self._current] if self._current is not None else [])]:
            self._end(reply, "cancelled", "client_cancelled")


def _num_units(events: Sequence[Event | Failed]) -> int:
    return sum(len(event.units) for event in events if isinstance(event, UnitDelta))
