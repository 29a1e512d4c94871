"""A conversation by voice: audio goes in as it is recorded, turns and replies come out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
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
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.errors import InvalidRequest
from antiphon.process.faults import log_fault

if TYPE_CHECKING:
    from antiphon.aio.async_engine import AsyncEngine

__all__ = ["Conversation"]

T = TypeVar("T")
Job = Callable[[], Awaitable[None]]


class Conversation:
    """Speech in, turns and replies out, from `AsyncEngine.converse`.

        async with engine.converse() as talk:
            feeding = asyncio.create_task(feed(talk))  # calls talk.push_audio(samples, 16000)
            async for event in talk:
                if isinstance(event, ReplyAudio):
                    speaker.play(event.samples)

    One task reads the events, and any others call the methods. Everything is done in the order in which it
    came, by one task of the conversation's own, so the events tell a consistent story: every reply that has
    begun ends with `ReplyEnded`, also when the conversation is closed.

    The methods raise InvalidRequest for what the caller got wrong; nothing has changed then. Of the
    conversation's settings, `update` changes all.
    """

    def __init__(self, engine: AsyncEngine, settings: ConversationSettings) -> None:
        self.settings = settings
        self.history = History()
        """Its items. To be changed by the conversation alone."""
        self._engine = engine
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._events: asyncio.Queue[ConversationEvent | None] = asyncio.Queue()
        self._replying = Replying(engine, self.history, self._emit, self._post)
        self._listening = Listening(engine, self.history, self._replying, settings, self._emit, self._post)
        self._replying.lost = self._listening.transcribe
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Conversation:
        if self._task is not None:
            raise InvalidRequest("conversation: it can only be entered once")
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[ConversationEvent]:
        return self

    async def __anext__(self) -> ConversationEvent:
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)  # for whoever asks again
            raise StopAsyncIteration
        return event

    @property
    def speculation(self) -> Speculation:
        """What beginning replies ahead has cost so far, and what it has brought."""
        return self._replying.speculation

    # --- the user's side --------------------------------------------------------------------------

    async def push_audio(self, samples: Any, rate_hz: int) -> None:
        """The audio that follows: samples of any form that `Codec.tokenize` takes, always at one rate."""
        mono = await self._listening.take(samples, rate_hz)
        await self._do(partial(self._listening.hear, mono))

    async def commit(self) -> str:
        """The turn is over, whatever turn detection says. Returns the id of its item, which then has its
        place. No reply is begun: see `respond`. InvalidRequest if no audio was pushed since the last turn."""
        return await self._do(partial(self._listening.commit, time.perf_counter()))

    async def clear(self) -> None:
        """Forget the audio since the last turn."""
        await self._do(self._listening.clear)

    async def add_item(self, item: Item, after: str | None = None) -> None:
        """Put a message into the conversation, after the item of an id ("root": before all others; None:
        at the end)."""

        async def add() -> None:
            previous = self.history.add(item, after)
            self._emit(ItemAdded(item, previous))
            self._emit(ItemDone(item, previous))

        await self._do(add)

    async def remove_item(self, item_id: str) -> None:
        """Take an item out of the conversation."""

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
        """Stop making a reply; None: the one that is being made. InvalidRequest if there is none."""
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
        """Go on with other settings; what has begun ends with those that it began with."""

        async def change() -> None:
            self.settings = settings
            await self._listening.update(settings)

        await self._do(change)

    async def aclose(self) -> None:
        """End it: what is being made is cancelled, and the last events are there to be read."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._task is None:
            self._events.put_nowait(None)
            return
        self._jobs.put_nowait(None)
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
        if self._task is None or self._is_closed:
            raise InvalidRequest("conversation: it is closed, or was not entered")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await job()
            except Exception as error:  # noqa: BLE001 - it concerns the caller alone
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self._jobs.put_nowait(run)
        either: list[asyncio.Future[Any]] = [done, self._task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise InvalidRequest("conversation: it was closed")
        return done.result()

    async def _work(self) -> None:
        try:
            while (job := await self._jobs.get()) is not None:
                try:
                    await job()
                except Exception as error:  # noqa: BLE001 - the conversation goes on
                    log_fault("a conversation met a fault", error=error)
        finally:
            self._is_closed = True
            with suppress(Exception):
                await self._listening.close()
            with suppress(Exception):
                await self._replying.close()
            self._events.put_nowait(None)
