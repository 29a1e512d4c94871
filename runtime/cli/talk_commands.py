"""What may be typed while a voice talks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from antiphon.aio.async_engine import AsyncEngine
from antiphon.aio.conversation.conversation import Conversation
from antiphon.aio.conversation.items import Item
from antiphon.cli.lines import check_text
from antiphon.cli.streams import say, show_error
from antiphon.cli.talk_printer import TalkPrinter
from antiphon.cli.typed_commands import COMMANDS, parse
from antiphon.cli.typed_file import read_picture, read_typed_file
from antiphon.config import InputLimits
from antiphon.errors import AntiphonError, EngineDead, InvalidRequest
from antiphon.sound.reading import read_audio
from antiphon.types import Image, Request, Units

__all__ = ["TalkCommands"]

HELP = """\
speech           asks the model
Enter            stop a reply{enter}
a line of text   ask this question
/image FILE      show a picture with the next question
/audio FILE      ask by a recording
/clear           forget the conversation
/help, help      show this
/quit, quit      leave; so do exit and Ctrl-D
Ctrl-C           stop a reply; otherwise, twice leaves"""


class TalkCommands:
    """Does what is typed, in a conversation. A question stops the reply that is being heard."""

    def __init__(
        self,
        engine: AsyncEngine,
        conversation: Conversation,
        stop: Callable[[], Awaitable[bool]],
        printer: TalkPrinter,
    ) -> None:
        """stop: stops the reply that is made or heard, and says whether there was one."""
        self.wants_to_leave = False
        self._engine = engine
        self._conversation = conversation
        self._stop = stop
        self._printer = printer
        self._attached: list[str] = []
        """The items of pictures that no reply has seen yet."""

    async def take(self, line: str) -> str | None:
        """Do what a line says. Returns the id of the reply that was begun, if any."""
        command, argument = parse(line)
        reply_id = None
        try:
            if command == "/quit":
                self.wants_to_leave = True
            elif command == "/clear":
                await self._clear()
                say("the conversation is forgotten", err=True)
            elif command == "/image":
                await self._attach(argument)
            elif command == "/audio":
                reply_id = await self._ask_aloud(argument)
            elif command:
                if command not in COMMANDS:
                    show_error(f"there is no command {command}")
                by_enter = self._conversation.settings.turn_detection is None
                say(HELP.format(enter=", or end the question" if by_enter else ""), err=True)
            elif line:
                check_text(line)
                reply_id = await self._ask(line)
            elif not await self._stop() and self._conversation.settings.turn_detection is None:
                await self._conversation.commit()
                reply_id = await self._conversation.respond()
        except EngineDead:
            raise
        except MemoryError:
            show_error("there is not enough memory")
        except (AntiphonError, OSError) as error:
            show_error(error)
        return reply_id

    def answered(self) -> None:
        """The pictures have been seen."""
        self._attached.clear()

    async def refused(self) -> None:
        """A question could not be answered: its pictures may be the cause, and must not stay."""
        attached, self._attached = self._attached, []
        for item_id in attached:
            with suppress(InvalidRequest):
                await self._conversation.remove_item(item_id)

    async def _attach(self, name: str) -> None:
        limits = InputLimits()
        if len(self._attached) >= limits.max_images:
            raise InvalidRequest(f"images: expected at most {limits.max_images} with a question")
        picture, told = await asyncio.to_thread(read_picture, name, limits)
        item = Item("user", (Image(picture),))
        await self._conversation.add_item(item)
        self._attached.append(item.item_id)
        say(told, err=True)

    async def _ask_aloud(self, name: str) -> str:
        """Ask by a recording; what was heard in it is shown."""
        codec = self._engine.engine.codec
        assert codec is not None, "a talk needs one"
        limits = self._engine.engine.config.limits

        def read() -> Units:
            samples, rate_hz = read_audio(read_typed_file(name, limits.max_audio_bytes), limits)
            return Units(tuple(codec.tokenize(samples, rate_hz)))

        await self._stop()
        units = await asyncio.to_thread(read)
        heard = await self._engine.generate(Request(units, modalities=("transcript",)))
        self._printer.hear(heard.transcript.strip(), is_all=True)
        return await self._ask(units)

    async def _ask(self, question: str | Units) -> str:
        await self._stop()
        item = Item("user", (question,))
        await self._conversation.add_item(item)
        try:
            return await self._conversation.respond()
        except InvalidRequest:
            await self._conversation.remove_item(item.item_id)
            raise

    async def _clear(self) -> None:
        await self._stop()
        self._attached.clear()
        await self._conversation.clear()
        for item in list(self._conversation.history):
            with suppress(InvalidRequest):
                await self._conversation.remove_item(item.item_id)
