"""The replies of a conversation: begun ahead, confirmed, cancelled, and cut to what was heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from antiphon.aio.conversation.events import (
    ConversationEvent,
    ItemAdded,
    ItemDone,
    ItemTruncated,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplySpoken,
    ReplyText,
)
from antiphon.aio.conversation.items import History, Item, heard_until
from antiphon.aio.conversation.reply import Failed, Reply
from antiphon.aio.conversation.settings import ReplyOptions
from antiphon.errors import EngineDead, InvalidRequest
from antiphon.plain import shown
from antiphon.types import (
    UNITS_PER_S,
    AudioDelta,
    Event,
    Finished,
    Message,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
    Units,
)

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering
    from antiphon.aio.conversation.events import EndReason, ReplyStatus
    from antiphon.aio.conversation.retention import Retention
    from antiphon.aio.conversation.transcripts import Transcripts

__all__ = ["Replying", "Speculation"]

MAX_PAST = 8
"""Replies whose sound may still be playing."""


@dataclass(frozen=True)
class Speculation:
    """What beginning replies ahead has cost, and what it has brought."""

    num_begun: int = 0
    num_confirmed: int = 0
    num_dropped: int = 0
    num_dropped_units: int = 0
    """Units that were made for nothing, as far as their reply had told of them."""


class Replying:
    """The part of a conversation that has replies made. Its methods are called by the conversation's task."""

    def __init__(
        self,
        engine: Answering,
        history: History,
        transcripts: Transcripts,
        retention: Retention,
        emit: Callable[[ConversationEvent], None],
        post: Callable[[Callable[[], Awaitable[None]]], None],
        *,
        number: int,
        timeout_s: float | None,
    ) -> None:
        """emit: gets events. post: has something done by the conversation's task, in its turn. number: of the
        conversation, for seeds. timeout_s: see `ConversationSettings.reply_timeout_s`."""
        self.timeout_s = timeout_s
        self.speculation = Speculation()
        self._engine = engine
        self._history = history
        self._transcripts = transcripts
        self._retention = retention
        self._emit = emit
        self._post = post
        self._number = number
        self._num_replies = {True: 0, False: 0}
        """Those that have begun: of the conversation, and aside."""
        self._ahead: Reply | None = None
        """A reply to a turn that may go on, or to which the client has yet to ask for a reply."""
        self._current: Reply | None = None
        """The one that is being made for the conversation."""
        self._aside: dict[str, Reply] = {}
        """Replies that are being made for the client alone, by id."""
        self._past: dict[str, Reply] = {}
        """Ended replies by their item's id, the last ones."""
        self._waiting: ReplyOptions | None = None
        """A turn ended while a reply was being made that it must not interrupt: how to answer it."""
        self._dropped: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a reply is being made or played for the conversation, or is about to be."""
        if self._current is not None or self._waiting is not None:
            return True
        return any(reply.is_playing for reply in list(self._past.values())[-1:])

    # --- begun ------------------------------------------------------------------------------------

    def speculate(self, options: ReplyOptions, units: Units, turn_id: str) -> None:
        """Begin the reply to a turn that may be over. turn_id: the id that the turn's item will have."""
        self.drop_ahead()
        if self._current is not None:
            return  # it would not be said now
        messages = self._retention.read(options, (units,), is_kept=False)
        reply = self._reply(messages, options, is_speculative=True)
        reply.turn_id = turn_id if reply.hears_one_turn else None
        self._ahead = reply
        self.speculation = replace(self.speculation, num_begun=self.speculation.num_begun + 1)
        reply.start(self._engine, self._tell)

    def drop_ahead(self) -> None:
        """The turn goes on, or was forgotten."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self.speculation = replace(
                self.speculation,
                num_dropped=self.speculation.num_dropped + 1,
                num_dropped_units=self.speculation.num_dropped_units + ahead.num_held_units,
            )
            self._drop(ahead)

    def turn_is_over(self, turn_id: str) -> None:
        """The turn has become an item: have its transcript told, by the reply that was begun ahead if that
        reads it."""
        if self._ahead is not None and self._ahead.turn_id == turn_id:
            self._ahead.may_tell = True
            self._tell_heard(self._ahead)
        else:
            self._transcripts.make(turn_id)

    async def answer(self, options: ReplyOptions, turn_id: str) -> None:
        """Reply to a turn that has become an item, now or when the reply before it has been made."""
        if self._current is not None:
            self._waiting = options
            self.turn_is_over(turn_id)
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
        if items is None:
            messages = self._retention.read(options, is_kept=keep)
        else:
            messages = _messages(options, items)
        if not messages or messages[-1].role != "user":
            raise InvalidRequest("conversation: expected something of the user's to answer, got nothing new")
        reply = None
        if keep:
            self._waiting = None  # this answers that turn as well
            if items is None:
                reply = await self._confirmed(messages, options)
            if reply is None:
                self.drop_ahead()
            elif turn_id is not None:
                self.turn_is_over(turn_id)
            self._ahead = None
        if reply is None:
            reply = self._reply(messages, options, is_speculative=False, keep=keep)
            if turn_id is not None and reply.hears_one_turn:
                reply.turn_id, reply.may_tell = turn_id, True
            elif turn_id is not None:
                self._transcripts.make(turn_id)
            reply.start(self._engine, self._tell)
        reply.in_conversation = keep
        self._num_replies[keep] += 1
        self._begin(reply)
        return reply.reply_id

    async def _confirmed(self, messages: list[Message], options: ReplyOptions) -> Reply | None:
        """The reply that was begun ahead, confirmed, if it is the one that is wanted and can still be had."""
        ahead = self._ahead
        if ahead is None or ahead.has_failed() or not ahead.matches(messages, options):
            return None
        with suppress(EngineDead):  # its stream ends with the same error
            await ahead.confirm(self._engine, time.perf_counter())
        if ahead.has_failed():
            return None
        self.speculation = replace(self.speculation, num_confirmed=self.speculation.num_confirmed + 1)
        return ahead

    def _reply(
        self, messages: list[Message], options: ReplyOptions, *, is_speculative: bool, keep: bool = True
    ) -> Reply:
        params = options.sampling_params
        if params.seed is None:  # the sound has one, too
            params = replace(params, seed=self._seed(keep=keep))
        return Reply(messages, options, params, is_speculative=is_speculative)

    def _seed(self, *, keep: bool) -> int:
        """For a reply that is given none. It does not depend on what was begun and dropped before."""
        named = (self._engine.engine.config.seed, self._number, keep, self._num_replies[keep])
        return int.from_bytes(blake2b(repr(named).encode(), digest_size=7).digest(), "big")

    def _begin(self, reply: Reply) -> None:
        self._emit(ReplyBegun(reply.reply_id, reply.item_id, reply.options))
        if reply.in_conversation:
            self._current = reply
            item = Item("assistant", item_id=reply.item_id, is_spoken=reply.is_spoken, status="in_progress")
            self._emit(ItemAdded(item, self._history.add(item)))
        else:
            self._aside[reply.reply_id] = reply
        if self.timeout_s is not None:
            reply.expire_after(
                self.timeout_s, partial(self._post, partial(self._expire, reply, self.timeout_s))
            )
        held, reply.held = reply.held, []
        for event in held:
            self._say(reply, event)

    # --- being made -------------------------------------------------------------------------------

    def _tell(self, reply: Reply, event: Event | Failed) -> None:
        self._post(partial(self._take, reply, event))

    async def _take(self, reply: Reply, event: Event | Failed) -> None:
        if reply.has_ended:
            return
        if isinstance(event, TranscriptDelta):
            reply.transcript += event.text
            return
        if reply.has_failed() and isinstance(event, (Failed, Finished)):
            if reply.heard is None:
                self._pass_on(reply)
        elif reply.heard is None:  # the transcript comes before all else
            reply.heard = reply.transcript
            self._tell_heard(reply)
        if reply is self._ahead:
            reply.held.append(event)
        else:
            self._say(reply, event)

    def _tell_heard(self, reply: Reply) -> None:
        turn_id = reply.turn_id
        if turn_id is not None and reply.heard is not None and reply.may_tell:
            reply.turn_id = None
            self._transcripts.tell(turn_id, reply.heard)

    def _pass_on(self, reply: Reply) -> None:
        """Have the transcript made that this reply would have told, if its turn is over."""
        turn_id, reply.turn_id = reply.turn_id, None
        if turn_id is not None and reply.may_tell:
            self._transcripts.make(turn_id)

    def _say(self, reply: Reply, event: Event | Failed) -> None:
        """Tell what has become known of a reply that has begun."""
        ids = reply.reply_id, reply.item_id
        if isinstance(event, TextDelta):
            reply.text += event.text
            reply.num_text += len(event.token_ids)
            self._emit(ReplyText(*ids, event.text))
        elif isinstance(event, UnitDelta):
            reply.num_units += len(event.units)
            self._spoken(reply, [*reply.spoken_chars, *event.spoken_chars], len(reply.spoken_chars))
        elif isinstance(event, AudioDelta):
            start_s = reply.sent(event)
            self._emit(ReplyAudio(*ids, event.samples, event.sample_rate_hz, start_s))
        elif isinstance(event, Failed):
            self._end(reply, "failed", error=event.error)
        elif isinstance(event, Finished):
            self._finish(reply, event)

    def _spoken(self, reply: Reply, spoken_chars: list[int], num_told: int) -> None:
        """Tell what is new of how far the text has been spoken."""
        before = reply.spoken_chars[-1] if reply.spoken_chars else 0
        for index, chars in enumerate(spoken_chars[num_told:], num_told):
            if chars > before:
                before = chars
                self._emit(ReplySpoken(reply.reply_id, reply.item_id, chars, (index + 1) / UNITS_PER_S))
        reply.spoken_chars = spoken_chars

    def _finish(self, reply: Reply, event: Finished) -> None:
        reply.completion = done = event.completion
        if len(done.text) > len(reply.text):
            self._emit(ReplyText(reply.reply_id, reply.item_id, done.text[len(reply.text) :]))
        reply.text = done.text
        if reply.is_spoken and done.spoken_chars:
            self._spoken(reply, list(done.spoken_chars), len(done.spoken_chars) - 1)
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
        reason: EndReason | None = None,
        error: str | None = None,
    ) -> None:
        self._drop(reply)
        self._aside.pop(reply.reply_id, None)
        if reply.in_conversation:
            item = Item(
                "assistant",
                (reply.text,) if reply.text else (),
                reply.item_id,
                is_spoken=reply.is_spoken,
                spoken_chars=tuple(reply.spoken_chars),
                status="completed" if status == "completed" else "incomplete",
            )
            if reply.cut_s is not None:
                item = heard_until(item, reply.cut_s)
            elif reply.is_spoken and status in ("cancelled", "failed"):
                item = heard_until(item, reply.heard_s if status == "cancelled" else reply.sent_s)
            self._history.change(item)
            if self._history.holds(reply.item_id):
                self._emit(ItemDone(item, self._history.previous_id(reply.item_id)))
            self._past[reply.item_id] = reply
            for item_id in list(self._past)[:-MAX_PAST]:
                del self._past[item_id]
        done = reply.completion
        self._emit(
            ReplyEnded(
                reply.reply_id,
                reply.item_id,
                status,
                reason,
                error,
                reply.metrics,
                reply.num_text if done is None else len(done.text_ids),
                reply.num_units,
            )
        )
        if self._current is reply:
            self._current = None
            if self._waiting is not None:
                self._post(self._answer_waiting)

    def _drop(self, reply: Reply) -> None:
        """Stop making a reply."""
        self._pass_on(reply)
        task = reply.drop()
        if task is not None and not task.done():
            self._dropped.add(task)
            task.add_done_callback(self._dropped.discard)

    async def _answer_waiting(self) -> None:
        """Answer the turn that ended while a reply was being made."""
        options = self._waiting
        if options is not None and self._current is None:
            self._waiting = None
            with suppress(InvalidRequest):  # the client has removed what was to be answered
                await self.respond(options)

    async def _expire(self, reply: Reply, timeout_s: float) -> None:
        if not reply.has_ended:
            self._end(reply, "failed", error=f"the reply was not made within {timeout_s:g} s")

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
        reply = self._current
        if reply_id is not None and (reply is None or reply.reply_id != reply_id):
            reply = self._aside.get(reply_id)
        if reply is None:
            found = "but none is being made" if reply_id is None else f"got {shown(reply_id)}"
            raise InvalidRequest(f"response_id: expected that of a reply that is being made, {found}")
        self._end(reply, "cancelled", "client_cancelled")

    def truncate(self, item_id: str, audio_end_s: float) -> None:
        """See `Conversation.truncate`."""
        item = self._history.find(item_id)
        if item.role != "assistant" or not item.is_spoken:
            raise InvalidRequest(f"item_id: expected that of a spoken reply, got {shown(item_id)}")
        reply = self._spoken_reply(item_id)
        sent_s = reply.sent_s if reply is not None else len(item.spoken_chars) / UNITS_PER_S
        if not 0 <= audio_end_s <= sent_s + 1 / UNITS_PER_S:
            raise InvalidRequest(
                f"audio_end_ms: expected 0 to {round(sent_s * 1000)}, the reply's sound so far, "
                f"got {round(audio_end_s * 1000)}"
            )
        if reply is not None:
            reply.played(audio_end_s)
            reply.cut_s = audio_end_s
        self._history.change(heard_until(item, audio_end_s))

    def played(self, item_id: str, seconds: float) -> None:
        """See `Conversation.played`."""
        reply = self._spoken_reply(item_id)
        if reply is not None:
            reply.played(seconds)

    def _spoken_reply(self, item_id: str) -> Reply | None:
        """The reply of an item, if it is being made or was not long ago."""
        if self._current is not None and self._current.item_id == item_id:
            return self._current
        return self._past.get(item_id)

    async def close(self, error: str | None) -> None:
        """Stop what is being made. error: what the conversation failed of."""
        self._waiting = None
        self.drop_ahead()
        for reply in [*self._aside.values(), *([self._current] if self._current is not None else [])]:
            if error is None:
                self._end(reply, "cancelled", "client_cancelled")
            else:
                self._end(reply, "failed", error=error)
        await asyncio.gather(*self._dropped, return_exceptions=True)


def _messages(options: ReplyOptions, items: Sequence[Item]) -> list[Message]:
    """What is read of items that were given in place of the conversation's."""
    history = History()
    for item in items:
        history.add(item)
    return history.messages(options.system)
