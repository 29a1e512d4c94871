"""A conversation by voice: audio goes in as it is recorded, turns and replies come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from antiphon.aio.conversation.events import (
    ConversationEvent,
    ItemAdded,
    ItemDone,
    ItemRemoved,
    ItemTruncated,
)
from antiphon.aio.conversation.items import History, Item
from antiphon.aio.conversation.listening import Listening
from antiphon.aio.conversation.replying import Replying, Speculation
from antiphon.aio.conversation.retention import Retention
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.aio.conversation.transcripts import Transcripts
from antiphon.errors import EngineDead, InvalidRequest
from antiphon.process.faults import log_fault

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering

__all__ = ["Conversation"]

LOOK_UP_S = 1.0
"""How often a conversation looks whether its engine is alive."""

T = TypeVar("T")
Job = Callable[[], Awaitable[None]]


class Conversation:
    """Speech in, turns and replies out, from `AsyncEngine.converse`.

        async with engine.converse() as talk:
            feeding = asyncio.create_task(feed(talk))  # calls talk.push_audio(samples, 16000)
            async for event in talk:
                if isinstance(event, ReplyAudio):
                    speaker.play(event.samples)

    One task reads the events, and any others call the methods; if several read, each event goes to one of
    them. Everything is done in the order in which it came, by one task of the conversation's own, so the
    events tell a consistent story: every reply that has begun ends with `ReplyEnded`, also when the
    conversation is closed. A call that is cancelled before its turn is not carried out.

    The methods raise InvalidRequest for what the caller got wrong, and nothing has changed then; EngineDead
    once the engine is closed or has failed, which also ends the conversation; and ConfigError for settings
    that need what is not installed.
    """

    def __init__(self, engine: Answering, settings: ConversationSettings, number: int = 0) -> None:
        """number: that of the conversation, for the seeds of replies that are sampled without one."""
        self.settings = settings
        """To be changed with `update`."""
        self.history = History()
        """Its items. To be changed by the conversation alone."""
        self._engine = engine
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._events: asyncio.Queue[ConversationEvent | None] = asyncio.Queue()
        self._transcripts = Transcripts(engine, self.history, self._emit, self._post)
        self._retention = Retention(engine, self.history, settings)
        self._replying = Replying(
            engine,
            self.history,
            self._transcripts,
            self._retention,
            self._emit,
            self._post,
            number=number,
            timeout_s=settings.reply_timeout_s,
        )
        self._listening = Listening(
            engine, self.history, self._replying, self._retention, settings, self._emit, self._post
        )
        self._task: asyncio.Task[None] | None = None
        self._is_working = False
        self._is_closed = False
        self._fault: str | None = None
        """What the engine died of, if that ended the conversation."""
        self._look_up: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Conversation:
        if self._task is not None or self._is_closed:
            raise InvalidRequest("conversation: it can only be entered once")
        self._task = asyncio.create_task(self._work())
        self._watch_engine()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[ConversationEvent]:
        return self

    async def __anext__(self) -> ConversationEvent:
        if self._task is None and not self._is_closed:
            raise InvalidRequest("conversation: it has to be entered first, with `async with`")
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)  # for whoever asks again
            raise StopAsyncIteration
        return event

    @property
    def speculation(self) -> Speculation:
        """What beginning replies in pauses has brought so far, and what it has cost."""
        return self._replying.speculation

    @property
    def endpoint_delay_s(self) -> float | None:
        """How much audio came after the last turn before it was taken to be over, see
        `SpeechStopped.delay_s`; None before the first."""
        return self._listening.endpoint_delay_s

    # --- the user's side --------------------------------------------------------------------------

    async def push_audio(self, samples: Any, rate_hz: int) -> None:
        """The audio that follows: samples of any form that `Codec.tokenize` takes, always at one rate.
        Returns once it is heard; a caller that is ahead of that waits."""
        self._check_open()
        mono, rate_hz = await self._listening.take(samples, rate_hz)
        await self._do(partial(self._listening.hear, mono, rate_hz))

    async def commit(self) -> str:
        """The turn is over, whatever turn detection says. Returns the id of its item, which then has its
        place. No reply is begun: see `respond`. InvalidRequest if no audio was pushed since the last turn, or
        if it cannot be read, and then it is forgotten."""
        return await self._do(self._listening.commit)

    async def clear(self) -> None:
        """Forget the audio since the last turn."""
        await self._do(self._listening.clear)

    async def add_item(self, item: Item, after: str | None = None) -> None:
        """Put a message into the conversation, after the item of an id ("root": before all others; None:
        at the end)."""

        async def add() -> None:
            await self._retention.measure(item)
            previous = self.history.add(item, after)
            self._emit(ItemAdded(item, previous))
            self._emit(ItemDone(item, previous))

        await self._do(add)

    async def remove_item(self, item_id: str) -> None:
        """Take an item out of the conversation. A reply that is being made goes on, and is not kept."""

        async def remove() -> None:
            self.history.remove(item_id)
            self._emit(ItemRemoved(item_id))

        await self._do(remove)

    async def find_item(self, item_id: str) -> Item:
        """An item as it is now."""

        async def find() -> Item:
            return self.history.find(item_id)

        return await self._do(find)

    # --- the model's side -------------------------------------------------------------------------

    async def respond(
        self, options: ReplyOptions | None = None, *, items: Sequence[Item] | None = None, keep: bool = True
    ) -> str:
        """Begin a reply to what was said. Returns its id.

        options: None: those of the settings. items: what to answer in place of the conversation; None: the
        conversation. keep: whether the reply becomes an item. InvalidRequest while another reply is being
        made for the conversation, and if nobody has said anything.
        """

        async def begin() -> str:
            given = self.settings.reply if options is None else options
            return await self._replying.respond(given, items=items, keep=keep)

        return await self._do(begin)

    async def cancel(self, reply_id: str | None = None) -> None:
        """Stop making a reply; None: the one that is being made for the conversation. InvalidRequest if there
        is none. Its item keeps what was heard by now."""
        await self._do(partial(self._replying.cancel, reply_id))

    async def truncate(self, item_id: str, audio_end_s: float) -> None:
        """Only this much of a reply's sound was heard: in the history, its text ends with the word that was
        begun last by then. The last call counts."""

        async def cut() -> None:
            self._replying.truncate(item_id, audio_end_s)
            self._emit(ItemTruncated(item_id, audio_end_s))

        await self._do(cut)

    async def played(self, item_id: str, seconds: float) -> None:
        """The client has played this much of a reply's sound. Without such news, it is taken to play what it
        gets as soon as it gets it."""

        async def note() -> None:
            self._replying.played(item_id, seconds)

        await self._do(note)

    async def update(self, settings: ConversationSettings) -> None:
        """Go on with other settings; what has begun ends with those that it began with. If turns are to be
        detected in another way, a turn that has begun is forgotten (`InputCleared`)."""

        async def change() -> None:
            await self._listening.update(settings)
            self._retention.settings = settings
            self._replying.timeout_s = settings.reply_timeout_s
            self.settings = settings

        await self._do(change)

    async def aclose(self) -> None:
        """End it: what is being made is cancelled, and the last events are there to be read."""
        self._close()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    # --- inside -----------------------------------------------------------------------------------

    def _emit(self, event: ConversationEvent) -> None:
        self._events.put_nowait(event)

    def _post(self, job: Job) -> None:
        """Have something done in its turn."""
        if not self._is_closed:
            self._jobs.put_nowait(job)

    async def _do(self, job: Callable[[], Awaitable[T]]) -> T:
        """Have something done in its turn; returns or raises what it does."""
        task = self._check_open()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            if done.done():  # its caller waits no longer
                return
            try:
                result = await job()
            except Exception as error:  # noqa: BLE001 - it concerns the caller alone
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self._jobs.put_nowait(run)
        either: list[asyncio.Future[Any]] = [done, task]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not done.done():
                done.cancel()
        if done.cancelled():
            self._check_open()
            raise InvalidRequest("conversation: it was closed")
        return done.result()

    def _check_open(self) -> asyncio.Task[None]:
        """The task that does what is asked for; raises if there is none."""
        if self._task is not None and not self._is_closed:
            self._check_engine()
        if self._fault is not None:
            raise EngineDead(self._fault)
        if self._task is None or self._is_closed:
            raise InvalidRequest("conversation: it is closed, or was not entered")
        return self._task

    def _watch_engine(self) -> None:
        """Look from time to time whether the engine is alive, since a conversation in which nothing is being
        made does not hear of its end."""
        if not self._is_closed:
            self._check_engine()
            self._look_up = asyncio.get_running_loop().call_later(LOOK_UP_S, self._watch_engine)

    def _check_engine(self) -> None:
        """End the conversation if the engine is dead."""
        health = self._engine.health()
        if not health.alive:
            reason = (
                "the engine is closed" if health.error is None else f"the engine has failed: {health.error}"
            )
            self._close(reason)

    def _close(self, fault: str | None = None) -> None:
        """Have the task end, whatever it is doing."""
        if self._is_closed:
            return
        self._is_closed, self._fault = True, fault
        if self._look_up is not None:
            self._look_up.cancel()
        if self._task is None:
            self._events.put_nowait(None)
        elif self._is_working and self._task is not asyncio.current_task():
            self._task.cancel()
        else:
            self._jobs.put_nowait(None)

    async def _work(self) -> None:
        self._is_working = True
        try:
            while not self._is_closed and (job := await self._jobs.get()) is not None:
                try:
                    await job()
                except Exception as error:  # noqa: BLE001 - the conversation goes on
                    log_fault("a conversation met a fault", error=error)
        except asyncio.CancelledError:
            if not self._is_closed:  # it was not `_close`: the event loop ends
                raise
        finally:
            self._is_working = False
            self._is_closed = True
            try:
                await self._end()
            finally:
                self._events.put_nowait(None)

    async def _end(self) -> None:
        """Let go of everything, and tell the last events."""
        for close in (
            self._transcripts.close,
            self._listening.close,
            partial(self._replying.close, self._fault),
        ):
            try:
                await close()
            except Exception as error:  # noqa: BLE001 - the rest has to be done all the same
                log_fault("a conversation could not be closed in order", error=error)
