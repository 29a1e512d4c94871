"""What the model reads of a conversation that grows longer than the model can read."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antiphon.aio.conversation.items import History, Item
from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.errors import InvalidRequest
from antiphon.types import UNITS_PER_S, Image, Message, Units

if TYPE_CHECKING:
    from antiphon.aio.conversation.answering import Answering
    from antiphon.config import InputLimits
    from antiphon.inputs.processor import InputProcessor

__all__ = ["Retention"]

REPLY_SHARE = 1 / 4
"""Of the longest sequence, what is kept free for a reply, unless that is limited to less. A spoken one takes
a position of the speech track for each unit, and so has 41 s of 4096 positions."""
TURN_SHARE = 1 / 8
"""And for a turn when it begins: 20 s of 4096 positions. A longer one may have turns left out when it ends,
and is then read again from its start: what was computed while it was said followed other turns."""
MOST_TURN_S = 60
"""More is not kept free for a turn, however long a sequence may be, unless an earlier one was longer."""
MOST_TURN_SHARE = 1 / 2
"""Nor more than this of the longest sequence, whatever earlier ones were like."""


class Retention:
    """Decides which turns are read. See `ConversationSettings.retention_ratio`.

    What is left out stays left out, so that the prompts that follow begin alike. It is decided anew when a
    turn begins and when a reply does, and not for replies that are begun ahead or made aside: which turns a
    reply reads does not depend on those.
    """

    def __init__(self, engine: Answering, history: History, settings: ConversationSettings) -> None:
        self.settings = settings
        """As they are now."""
        self._longest_turn_s = 0.0
        self._engine = engine
        self._history = history

    def read(
        self,
        options: ReplyOptions,
        also: Sequence[Units] = (),
        *,
        is_growing: bool = False,
        is_kept: bool = True,
    ) -> list[Message]:
        """The messages of a prompt.

        also: see `History.messages`. is_growing: whether the turn at its end has yet to be said. is_kept:
        False to leave out what has to be in this prompt alone.
        """
        history, system = self._history, options.system
        whole = history.messages(system, also, remembers=self.settings.history)
        ratio = self.settings.retention_ratio
        starts = history.starts(also) if ratio is not None and self.settings.history else []
        if ratio is None or not starts or whole[-1].role != "user":
            return whole
        try:
            room = self._room(options, whole, is_growing=is_growing)
            if room.share(whole) <= 1:
                return whole
            index = bisect_left(
                starts,
                True,
                key=lambda start: room.share(history.messages(system, also, start=start)) <= ratio,
            )
        except InvalidRequest:  # it cannot be read at all, as the engine will say
            return whole
        start = starts[min(index, len(starts) - 1)]  # the newest turn is read, however long it is
        if is_kept:
            history.num_left_out = start
        return history.messages(system, also, start=start)

    def note_turn(self, seconds: float) -> None:
        """A turn was this long, whether or not there was room for it: the next ones may be as well."""
        self._longest_turn_s = max(self._longest_turn_s, seconds)

    async def measure(self, item: Item) -> None:
        """Find out how much room an item's pictures take, before that is asked for in the event loop."""
        inputs = self._engine.engine.inputs
        for part in item.parts:
            if isinstance(part, Image):
                await asyncio.to_thread(inputs.num_image_positions, part)

    def _room(self, options: ReplyOptions, messages: list[Message], *, is_growing: bool) -> _Room:
        engine, params = self._engine.engine, options.sampling_params
        # The pool of blocks may be too small for the longest sequence on both tracks.
        blocks = engine.cache_config
        text, speech = blocks.text_block_size, blocks.speech_block_size
        longest = min(engine.config.max_model_len, blocks.num_blocks * text * speech // (text + speech))
        most = params.max_units if "audio" in options.modalities else params.max_tokens
        reserve = int(longest * REPLY_SHARE)
        reserve = reserve if most is None else min(reserve, most)
        if is_growing:
            turn = min(int(longest * TURN_SHARE), MOST_TURN_S * UNITS_PER_S)
            turn = max(turn, math.ceil(self._longest_turn_s * UNITS_PER_S))
            reserve += min(turn, int(longest * MOST_TURN_SHARE))
        return _Room(engine.inputs, engine.config.limits, longest - reserve, messages)


class _Room:
    """What there is room for behind the system message."""

    def __init__(
        self, inputs: InputProcessor, limits: InputLimits, num_positions: int, messages: list[Message]
    ) -> None:
        """num_positions: for all. messages: those that begin with the system message, if there is one."""
        opening = messages[:1] if messages[0].role == "system" else []
        self._inputs = inputs
        self._num_opening = inputs.num_positions(opening)
        self._num_positions = num_positions - self._num_opening
        self._num_messages = limits.max_messages - len(opening)
        self._num_images = limits.max_images

    def share(self, messages: list[Message]) -> float:
        """How much these take of what they take most of; above 1: there is no room for them."""
        parts = [
            part for message in messages if isinstance(message.content, tuple) for part in message.content
        ]
        images = [part for part in parts if isinstance(part, Image)]
        num_messages = sum(message.role != "system" for message in messages)
        return max(
            _share(self._inputs.num_positions(messages) - self._num_opening, self._num_positions),
            _share(num_messages, self._num_messages),
            _share(len(images), self._num_images),
        )


def _share(number: int, most: int) -> float:
    return number / most if most > 0 else 2.0 * (number > 0)
