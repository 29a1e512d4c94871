"""The transcripts of a conversation's turns: each is told once, by a reply that reads it or by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from antiphon.aio.conversation.events import ConversationEvent, Heard, NotHeard
from antiphon.aio.conversation.faults import why
from antiphon.aio.conversation.items import History
from antiphon.types import Request, Units

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering

__all__ = ["Transcripts"]


class Transcripts:
    """Tells what was heard in the turns that have become items. Of one that was removed, nothing is told."""

    def __init__(
        self,
        engine: Answering,
        history: History,
        emit: Callable[[ConversationEvent], None],
        post: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """emit: gets events. post: has something done by the conversation's task, in its turn."""
        self._engine = engine
        self._history = history
        self._emit = emit
        self._post = post
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def tell(self, item_id: str, text: str) -> None:
        """This was heard in a turn."""
        if self._history.holds(item_id):
            item = self._history.find(item_id)
            self._history.change(replace(item, transcript=text.strip()))
            self._emit(Heard(item_id, text.strip(), item.speech_s))

    def make(self, item_id: str) -> None:
        """Have the transcript made of a turn that no reply reads."""
        if self._is_closed or not self._history.holds(item_id):
            return
        units = next(part for part in self._history.find(item_id).parts if isinstance(part, Units))
        task = asyncio.create_task(self._make(item_id, units))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Make no more, and tell no more."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, item_id: str, units: Units) -> None:
        try:
            done = await self._engine.generate(Request(units, modalities=("transcript",)))
            if done.finish_reason in ("abort", "error"):
                raise RuntimeError(done.error or "the request was aborted")
        except Exception as error:  # noqa: BLE001 - it concerns this transcript alone
            self._post(partial(self._failed, item_id, why(error)))
        else:
            self._post(partial(self._made, item_id, done.transcript))

    async def _made(self, item_id: str, text: str) -> None:
        self.tell(item_id, text)

    async def _failed(self, item_id: str, error: str) -> None:
        if self._history.holds(item_id):
            self._emit(NotHeard(item_id, error))
