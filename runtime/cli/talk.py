"""`antiphon chat --mic`: a conversation by voice in the terminal."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import numpy as np

from antiphon.aio.async_engine import AsyncEngine
from antiphon.aio.conversation.events import (
    ConversationEvent,
    Heard,
    HeardUpdate,
    InputCommitted,
    ItemTruncated,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplyText,
    SpeechStarted,
)
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.cli import signals
from antiphon.cli.microphone import Microphone
from antiphon.cli.speaker import GONE, Speaker
from antiphon.cli.spoken_replies import SpokenReplies
from antiphon.cli.streams import say, show_error
from antiphon.cli.talk_commands import TalkCommands
from antiphon.cli.talk_printer import TalkPrinter
from antiphon.cli.typed_lines import TypedLines
from antiphon.errors import AntiphonError, EngineDead, InvalidRequest
from antiphon.turns.settings import TurnDetection, TurnKind
from antiphon.types import SamplingParams

if TYPE_CHECKING:
    from antiphon.engine.engine import Engine
    from antiphon.sound.arrays import AudioArray

__all__ = ["settings_of", "talk"]

TICK_S = 0.05


def talk(
    engine: Engine,
    settings: ConversationSettings,
    microphone: Microphone,
    speaker: Speaker,
    *,
    headphones: bool,
) -> None:
    """Talk until the user leaves. The engine is closed then.

    headphones: replies do not come back into the microphone, so that speech may interrupt them.
    """
    with signals.noted(repeats=False) as note:
        loop = Talk(AsyncEngine.from_engine(engine), microphone, speaker, headphones=headphones)
        number = asyncio.run(loop.run(settings, note))
    if number is not None:
        signals.stop(number)


def settings_of(
    params: SamplingParams, system: str | None, voice: str | None, turn_detection: TurnKind | None
) -> ConversationSettings:
    """The settings of a talk. turn_detection: None: Enter ends a turn."""
    reply = ReplyOptions(system=system, voice=voice, sampling_params=params)
    detection = None if turn_detection is None else TurnDetection(turn_detection)
    return ConversationSettings(reply, turn_detection=detection)


class Talk:
    """Brings a conversation, the sound devices and the terminal together, in one event loop."""

    def __init__(
        self, engine: AsyncEngine, microphone: Microphone, speaker: Speaker, *, headphones: bool
    ) -> None:
        self._engine = engine
        self._microphone = microphone
        self._speaker = speaker
        self._headphones = headphones
        self._printer = TalkPrinter()
        self._recorded: asyncio.Queue[AudioArray] = asyncio.Queue()
        self._typed: asyncio.Queue[str | None] = asyncio.Queue()
        self._leaves = False
        """Whether another Ctrl-C leaves."""

    async def run(self, settings: ConversationSettings, note: signals.Note) -> int | None:
        """Talk. Returns the signal by which the user has left, if any. note: where signals are noted."""
        loop = asyncio.get_running_loop()

        def record(samples: AudioArray) -> None:
            # Without headphones the microphone hears the replies, too.
            if self._headphones or not self._replies.is_audible:
                loop.call_soon_threadsafe(self._recorded.put_nowait, samples)

        def take(line: str | None) -> None:
            loop.call_soon_threadsafe(self._typed.put_nowait, line)

        async with self._engine, self._engine.converse(settings) as conversation:
            self._conversation = conversation
            self._replies = SpokenReplies(conversation, self._speaker, self._printer)
            self._commands = TalkCommands(self._engine, conversation, self._replies.stop, self._printer)
            with self._microphone, TypedLines(take):
                self._microphone.start(record)
                ends = "" if settings.turn_detection else ", then press Enter"
                say(f"speak{ends}; /help lists the commands", err=True)
                jobs = (self._watch(note), self._hear(), self._follow(), self._obey())
                tasks = [asyncio.create_task(job) for job in jobs]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._speaker.stop()  # at once
                    ended = [task for task in tasks if task.done()]
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                results = [task.result() for task in ended]  # or raises why it ended
            self._replies.leave()
        return next((number for number in results if number is not None), None)

    # --- the user ---------------------------------------------------------------------------------

    async def _hear(self) -> None:
        while True:
            pieces = [await self._recorded.get()]
            while not self._recorded.empty():
                pieces.append(self._recorded.get_nowait())
            try:
                await self._conversation.push_audio(np.concatenate(pieces), self._microphone.rate_hz)
            except InvalidRequest as error:  # more than a turn may hold
                show_error(f"{error}; what was said since the last turn is forgotten")
                await self._conversation.clear()

    async def _obey(self) -> None:
        """Do what is typed. Lines of a pipe are taken one after another, as each has been answered."""
        is_terminal = sys.stdin.isatty()
        while not self._commands.wants_to_leave:
            line = await self._typed.get()
            if line is None:
                if not is_terminal:
                    await asyncio.Event().wait()  # there may be more to say
                return
            self._leaves = False
            self._printer.typed()
            reply_id = await self._commands.take(line)
            while not is_terminal and reply_id not in (None, self._replies.last_over):
                await asyncio.sleep(TICK_S)

    async def _watch(self, note: signals.Note) -> int | None:
        """Signals, the devices, and how much of a reply has been heard."""
        while True:
            await asyncio.sleep(TICK_S)
            number, note.number = note.number, None
            if number is not None:
                if number != signals.INTERRUPT or not await self._interrupt():
                    return number
                signals.forget()
            if not (health := self._engine.health()).alive:
                raise EngineDead(health.error or "the engine was closed")
            if not self._microphone.is_running:
                raise AntiphonError("the microphone is gone")
            if self._speaker.is_gone:
                raise AntiphonError(GONE)
            self._replies.track()

    async def _interrupt(self) -> bool:
        """Ctrl-C; returns False if it means to leave."""
        if await self._replies.stop():
            self._leaves = False
        elif self._leaves:
            return False
        else:
            self._leaves = True
            self._printer.end_line()
            say("press Ctrl-C again to leave", err=True)
        return True

    # --- the model --------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for event in self._conversation:
            await self._take(event)

    async def _take(self, event: ConversationEvent) -> None:
        if isinstance(event, SpeechStarted):
            self._leaves = False
        elif isinstance(event, InputCommitted):
            self._replies.await_transcript(event.item_id)
        elif isinstance(event, HeardUpdate):
            self._printer.hear(event.text)
        elif isinstance(event, Heard):
            self._printer.hear(event.text, is_all=True)
            self._replies.transcript_came(event.item_id)
        elif isinstance(event, NotHeard):
            self._replies.transcript_came(event.item_id)
            await self._refuse(event.error)
        elif isinstance(event, ReplyBegun):
            await self._replies.begin(event)
        elif isinstance(event, ReplyText | ReplyAudio):
            self._replies.add(event)
        elif isinstance(event, ReplyEnded):
            await self._replies.end(event)
            if event.status == "failed":
                await self._refuse(event.error)
            elif event.status != "cancelled":
                self._commands.answered()
        elif isinstance(event, ItemTruncated) and self._replies.plays(event.item_id):
            await self._replies.stop()  # by speech, when all of it had been made

    async def _refuse(self, error: str | None) -> None:
        self._printer.end_line()
        show_error((error or "").removeprefix("InvalidRequest: "))
        await self._commands.refused()
