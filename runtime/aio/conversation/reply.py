"""One reply, from its request to what was heard of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from antiphon.aio.conversation.faults import why
from antiphon.aio.conversation.items import new_id, num_spoken
from antiphon.aio.conversation.settings import ReplyOptions
from antiphon.types import (
    UNITS_PER_S,
    AudioDelta,
    Completion,
    Event,
    Finished,
    Message,
    Request,
    RequestMetrics,
    SamplingParams,
    UnitDelta,
)

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering

__all__ = ["Failed", "Reply"]

CONFIRM_RETRY_S = 0.001


@dataclass(frozen=True)
class Failed:
    """Takes the place of a reply's last event if there will be none."""

    error: str


class Reply:
    """A reply that is being made, or whose sound may still be playing.

    A speculative one is kept back: `held` has its events until it is confirmed.
    """

    def __init__(
        self,
        messages: list[Message],
        options: ReplyOptions,
        sampling_params: SamplingParams,
        *,
        is_speculative: bool,
    ) -> None:
        """sampling_params: those of the options, with a seed."""
        self.reply_id = new_id("resp")
        self.item_id = new_id("item")
        self.options = options
        self.request = Request(
            messages=messages,
            modalities=options.modalities,
            system=options.system,
            voice=options.voice,
            request_id=self.reply_id,
            sampling_params=sampling_params,
            is_speculative=is_speculative,
            gapless=True,
        )
        self.in_conversation = True
        """Whether it becomes an item."""
        self.turn_id: str | None = None
        """The item of the turn that it answers, if the turn's transcript has yet to be told."""
        self.may_tell = False
        """Whether that turn is over, so that its transcript may be told."""
        self.heard: str | None = None
        """The transcript of that turn; None while the model reads it."""
        self.held: list[Event | Failed] = []
        self.has_ended = False
        """Nothing more will come of it, or is wanted."""
        self.text = ""
        self.transcript = ""
        self.num_text = 0
        self.num_units = 0
        self.spoken_chars: list[int] = []
        self.sent_s = 0.0
        """Length of the sound that was sent."""
        self.cut_s: float | None = None
        """How much of its sound the client says was heard, with `truncate`."""
        self.completion: Completion | None = None
        self._first_sent_s: float | None = None
        self._played_s: float | None = None
        self._was_over = False
        """Whether it was made in full before it was confirmed."""
        self._last: Finished | Failed | None = None
        """Its last event, if that has come."""
        self._task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def is_spoken(self) -> bool:
        return "audio" in self.options.modalities

    @property
    def hears_one_turn(self) -> bool:
        """Whether its transcript is that of one turn: it covers the last message, which may hold several."""
        messages = self.request.messages
        return messages is not None and num_spoken(messages[-1]) == 1

    def has_failed(self) -> bool:
        """Whether it ended without a result."""
        if isinstance(self._last, Finished):
            return self._last.completion.finish_reason in ("abort", "error")
        return self._last is not None

    def matches(self, messages: list[Message], options: ReplyOptions) -> bool:
        """Whether it is the reply to these messages, made in this way."""
        return self.options == options and self.request.messages == messages

    def start(self, engine: Answering, tell: Callable[[Reply, Event | Failed], None]) -> None:
        """Have it made; `tell` gets each event in the event loop's thread, `Finished` or `Failed` last."""
        self._task = asyncio.create_task(self._run(engine, tell))

    async def confirm(self, engine: Answering, confirmed_s: float) -> None:
        """It is wanted: from here on it is an ordinary request. Returns once the engine knows, or the reply
        has ended."""
        assert self._task is not None, "a speculative reply is begun before it is confirmed"
        # Until its task has sent the request, the engine knows none of that id.
        while not await engine.confirm(self.reply_id, confirmed_s):
            if self._task.done():
                self._was_over = True
                break
            await asyncio.wait([self._task], timeout=CONFIRM_RETRY_S)

    def expire_after(self, seconds: float, expire: Callable[[], None]) -> None:
        """Have `expire` called, unless it has been dropped by then."""
        self._expiry = asyncio.get_running_loop().call_later(seconds, expire)

    def drop(self) -> asyncio.Task[None] | None:
        """Stop making it; nothing more is told. Returns the task that then lets go of its request."""
        self.has_ended = True
        if self._expiry is not None:
            self._expiry.cancel()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def sent(self, event: AudioDelta) -> float:
        """Sound goes out. Returns where it begins in the reply's sound, in seconds."""
        if self._first_sent_s is None:
            self._first_sent_s = time.monotonic()
        start_s, self.sent_s = self.sent_s, self.sent_s + len(event.samples) / event.sample_rate_hz
        return start_s

    def played(self, seconds: float) -> None:
        """The client says how much of the sound it has played."""
        self._played_s = max(0.0, min(seconds, self.sent_s))

    @property
    def heard_s(self) -> float:
        """How much of the sound has been heard: what the client says, else as if it played what it got."""
        if self._played_s is not None:
            return self._played_s
        if self._first_sent_s is None:
            return 0.0
        return min(self.sent_s, time.monotonic() - self._first_sent_s)

    @property
    def is_playing(self) -> bool:
        """Whether some of its sound has not been heard."""
        return self.heard_s < self.sent_s - 1 / UNITS_PER_S

    @property
    def metrics(self) -> RequestMetrics:
        """Those of the completion, counted from when the reply was wanted."""
        if self.completion is None:
            return RequestMetrics()
        metrics = self.completion.metrics
        if not self._was_over:
            return metrics
        metrics = replace(metrics)
        for name in ("ttft_s", "ttfu_s", "ttfa_s", "e2e_s"):
            if getattr(metrics, name) is not None:
                setattr(metrics, name, 0.0)
        return metrics

    @property
    def num_held_units(self) -> int:
        """Units that were made and not told."""
        return sum(len(event.units) for event in self.held if isinstance(event, UnitDelta))

    async def _run(self, engine: Answering, tell: Callable[[Reply, Event | Failed], None]) -> None:
        try:
            async with aclosing(engine.stream(self.request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        # the sound was sent piece by piece
                        event = self._last = replace(event, completion=replace(event.completion, audio=None))
                    tell(self, event)
        except Exception as error:  # noqa: BLE001 - the client is told, and the conversation goes on
            self._last = Failed(why(error))
            tell(self, self._last)
