"""The replies of a talk, on the loudspeaker and on the terminal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from antiphon.aio.conversation.conversation import Conversation
from antiphon.aio.conversation.events import ReplyAudio, ReplyBegun, ReplyEnded, ReplyText
from antiphon.cli.speaker import Speaker
from antiphon.cli.talk_printer import TalkPrinter
from antiphon.errors import InvalidRequest

__all__ = ["SpokenReplies"]

ECHO_S = 0.3
"""How long after a reply its sound may still be in the room."""


@dataclass
class _Reply:
    reply_id: str
    item_id: str
    has_sound: bool = False
    is_made: bool = False
    reason: str = "stop"
    """Its finish reason, once it is made."""


class SpokenReplies:
    """Plays and prints one reply after another, and tells the conversation how much of each was heard."""

    def __init__(self, conversation: Conversation, speaker: Speaker, printer: TalkPrinter) -> None:
        self.last_over: str | None = None
        """The id of the last reply that was made and heard, or stopped."""
        self._conversation = conversation
        self._speaker = speaker
        self._printer = printer
        self._reply: _Reply | None = None
        """The one that is made or heard."""
        self._unheard: set[str] = set()
        """Turns whose transcript is to come."""
        self._unsaid = ""
        """Text of the reply that waits for the transcript, to be printed below it."""
        self._acknowledging: set[asyncio.Task[None]] = set()

    @property
    def is_audible(self) -> bool:
        """Whether a microphone would hear a reply. May be read in any thread."""
        reply = self._reply
        return (reply is not None and reply.has_sound) or not self._speaker.is_silent(ECHO_S)

    def plays(self, item_id: str) -> bool:
        """Whether the reply that will be this item is made or heard."""
        return self._reply is not None and self._reply.item_id == item_id

    def await_transcript(self, turn_id: str) -> None:
        self._unheard.add(turn_id)

    def transcript_came(self, turn_id: str) -> None:
        self._unheard.discard(turn_id)
        self._say()

    async def begin(self, event: ReplyBegun) -> None:
        await self.stop()
        self._reply = _Reply(event.reply_id, event.item_id)
        self._speaker.begin()

    def add(self, event: ReplyText | ReplyAudio) -> None:
        """More of a reply; nothing, if it was stopped."""
        if self._reply is None or self._reply.reply_id != event.reply_id:
            return
        if isinstance(event, ReplyText):
            self._unsaid += event.text
            self._say()
        else:
            self._reply.has_sound = True
            self._speaker.play(event.samples, event.sample_rate_hz)
            self.track()

    async def end(self, event: ReplyEnded) -> None:
        """A reply is made, or will not be."""
        reply = self._reply
        if reply is None or reply.reply_id != event.reply_id:
            return
        if event.status == "cancelled":
            await self.stop()
            return
        self._speaker.finish()
        reply.is_made = True
        reply.reason = "length" if event.status == "incomplete" else "stop"

    async def stop(self) -> bool:
        """Stop the reply that is made or heard; returns False if there is none."""
        reply = self._reply
        if reply is None:
            return False
        heard_s = self._speaker.stop()
        self._unheard.clear()
        self._say()
        self._over(reply, "abort")
        with suppress(InvalidRequest):  # it has been made
            await self._conversation.cancel(reply.reply_id)
        with suppress(InvalidRequest):  # it has no sound yet, or its item is gone
            await self._conversation.truncate(reply.item_id, heard_s)
        return True

    def track(self) -> None:
        """Tell the conversation how much has been heard, and note when that is all."""
        reply = self._reply
        if reply is None:
            return
        if reply.is_made and not self._speaker.is_playing and not self._unheard:
            self._acknowledge(reply)
            self._over(reply, reply.reason)
        elif not self._acknowledging:
            self._acknowledge(reply)

    def leave(self) -> None:
        """Nothing more is to be heard or printed."""
        self._speaker.stop()
        if self._reply is not None:
            self._over(self._reply, "abort")

    def _say(self) -> None:
        if self._unsaid and not self._unheard:
            self._printer.reply(self._unsaid)
            self._unsaid = ""

    def _acknowledge(self, reply: _Reply) -> None:
        """Not awaited: the conversation may be busy, and Ctrl-C and the devices must not wait."""
        heard_s = self._speaker.heard_s

        async def acknowledge() -> None:
            with suppress(InvalidRequest):  # it was closed
                await self._conversation.played(reply.item_id, heard_s)

        task = asyncio.create_task(acknowledge())
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    def _over(self, reply: _Reply, reason: str) -> None:
        self._reply, self.last_over, self._unsaid = None, reply.reply_id, ""
        self._printer.end_reply(reason)
