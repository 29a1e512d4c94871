"""The items of a conversation, and what the model reads of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, groupby, pairwise
from typing import Literal, get_args

from antiphon.errors import InvalidRequest
from antiphon.plain import choice, items, kind, shown
from antiphon.types import UNITS_PER_S, Image, Message, Part, Units

__all__ = ["History", "Item", "Role", "heard_until", "new_id", "num_spoken", "num_units"]

Role = Literal["system", "user", "assistant"]
FIRST = "root"
"""Stands for the place before the first item."""
MAX_PARTS = 1000
"""Of one item."""


def new_id(kind: str) -> str:
    """An id that no other object has, such as "item_1f0c..."."""
    return f"{kind}_{uuid.uuid4().hex}"


@dataclass(frozen=True, eq=False)
class Item:
    """One message of a conversation. A changed item is a new object under the same id."""

    role: Role
    parts: tuple[str | Image | Units, ...] = ()
    """What the model reads. Of a reply, its text."""
    item_id: str = field(default_factory=lambda: new_id("item"))
    transcript: str | None = None
    """What was heard in its speech; None: it has none, or it is not known yet."""
    is_spoken: bool = False
    """Whether it is a reply that was spoken."""
    spoken_chars: tuple[int, ...] = ()
    """Of a spoken reply, for each unit: how many characters of its text have been begun by its end."""
    heard_s: float | None = None
    """How much of a spoken reply's sound was heard; None: all."""
    said_s: float = 0.0
    """How long its user spoke, if that is longer than its units last: silence was cut."""
    status: Literal["completed", "incomplete", "in_progress"] = "completed"

    def __post_init__(self) -> None:
        role = choice("item.role", self.role, get_args(Role))
        parts = items("item.content", self.parts, "a list of parts", MAX_PARTS)
        allowed = (str, Image, Units) if role == "user" else (str,)
        for index, part in enumerate(parts):
            if not isinstance(part, allowed):
                names = ", ".join(each.__name__ for each in allowed)
                raise InvalidRequest(
                    f"item.content[{index}]: expected one of {names} from the {role}, got {kind(part)}"
                )
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", parts)

    @property
    def speech_s(self) -> float:
        """Length of its speech, as it was said."""
        return max(self.num_units / UNITS_PER_S, self.said_s)

    @property
    def num_units(self) -> int:
        """Units of its speech; 0 for a reply, whose speech is not kept."""
        return sum(len(part.units) for part in _speech(self.parts))

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def heard_text(self) -> str:
        """Of a spoken reply, the words that were begun before its user stopped listening; else its text."""
        text = self.text
        if self.heard_s is None or not self.is_spoken:
            return text
        num_units = int(self.heard_s * UNITS_PER_S)
        if num_units >= len(self.spoken_chars):
            return (
                text if self.status == "completed" else text[: self._begun(len(self.spoken_chars))].rstrip()
            )
        return text[: self._begun(num_units)].rstrip()

    def _begun(self, num_units: int) -> int:
        """Where the word ends that was begun last in these units."""
        text, end = self.text, self.spoken_chars[num_units - 1] if num_units > 0 else 0
        while 0 < end < len(text) and not text[end].isspace():
            end += 1
        return end


class History:
    """The items in their order. Deleting and inserting are the client's; the model reads `messages`."""

    def __init__(self) -> None:
        self.num_left_out = 0
        """The items at the beginning that the model no longer reads, unless they are system messages."""
        self._items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def last_id(self) -> str | None:
        """None while there is no item."""
        return self._items[-1].item_id if self._items else None

    def find(self, item_id: str) -> Item:
        """The item; InvalidRequest if there is none of this id."""
        return self._items[self._index(item_id)]

    def holds(self, item_id: str) -> bool:
        """Whether there is an item of this id."""
        return any(item.item_id == item_id for item in self._items)

    def previous_id(self, item_id: str) -> str | None:
        """The id of the item before it; None: it is the first."""
        index = self._index(item_id)
        return self._items[index - 1].item_id if index else None

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item after another ("root": before all; None: at the end). Returns the id of the item before
        it. InvalidRequest if that is not there, or the new one's id is taken."""
        if self.holds(item.item_id):
            raise InvalidRequest(f"item.id: {shown(item.item_id)} is the id of another item")
        if after == FIRST:
            index = 0
        else:
            index = len(self._items) if after is None else self._index(after, "previous_item_id") + 1
        self._items.insert(index, item)
        if index < self.num_left_out:
            self.num_left_out += 1
        return self._items[index - 1].item_id if index else None

    def change(self, item: Item) -> None:
        """Put a changed item in place of the one of its id, if that is still there."""
        self._items = [item if each.item_id == item.item_id else each for each in self._items]

    def remove(self, item_id: str) -> None:
        """InvalidRequest if there is none of this id."""
        index = self._index(item_id)
        del self._items[index]
        if index < self.num_left_out:
            self.num_left_out -= 1

    def messages(
        self,
        system: str | None = None,
        also: Sequence[Units] = (),
        *,
        remembers: bool = True,
        start: int | None = None,
    ) -> list[Message]:
        """What the model reads: neighbours of one role as one message, since that is how it was trained.

        system: the system message, before the items' own; None: only theirs. also: parts that follow as the
        user's. remembers: False for nothing but the system message and what is new, which is all that came
        after the last reply or spoken turn. start: the index of the first item that is read, system messages
        excepted; None: the first that is not left out.
        """
        opening = [] if system is None else [system]
        opening += [
            item.text
            for item in self._items
            if item.role == "system" and item.text and item.status != "in_progress"
        ]
        turns = [item for _, item in self._turns(also, self.num_left_out if start is None else start)]
        if not remembers:
            turns = turns[_start_of_news(turns[:-1]) :]
        messages = [Message("system", "\n\n".join(opening))] if opening else []
        for role, group in groupby(turns, key=lambda item: item.role):
            messages.append(Message(role, tuple(part for item in group for part in self._parts(item))))
        return messages

    def starts(self, also: Sequence[Units] = ()) -> list[int]:
        """Where the model could begin to read instead: the indices of the items, not left out, that begin
        one of the user's turns, but for the first. also: see `messages`; its index is the number of items."""
        turns = self._turns(also, self.num_left_out)
        return [
            index
            for (_, before), (index, item) in pairwise(turns)
            if item.role == "user" and (before.role != "user" or before.num_units)
        ]

    def _turns(self, also: Sequence[Units], start: int) -> list[tuple[int, Item]]:
        """What is read but for system messages, with its indices. A reply whose question is left out is left
        out, too."""
        turns = [
            (index, item)
            for index, item in enumerate(self._items)
            if index >= start and item.role != "system" and item.status != "in_progress" and self._parts(item)
        ]
        if also:
            turns.append((len(self._items), Item("user", tuple(also), "")))
        if start > 0:
            turns = list(dropwhile(lambda turn: turn[1].role != "user", turns))
        return turns

    @staticmethod
    def _parts(item: Item) -> tuple[Part, ...]:
        if item.role == "assistant":
            return (item.heard_text,) if item.heard_text else ()
        return tuple(part for part in item.parts if not isinstance(part, str) or part)

    def _index(self, item_id: str, where: str = "item_id") -> int:
        for index, item in enumerate(self._items):
            if item.item_id == item_id:
                return index
        raise InvalidRequest(f"{where}: expected the id of an item, got {shown(item_id)}")


def heard_until(item: Item, seconds: float) -> Item:
    """A reply of which only this much of its sound was heard."""
    return replace(item, heard_s=seconds)


def _start_of_news(turns: Sequence[Item]) -> int:
    """The index after the last reply or spoken turn."""
    ends = (i for i in reversed(range(len(turns))) if turns[i].role != "user" or turns[i].num_units)
    return next(ends, -1) + 1


def num_units(message: Message) -> int:
    """Units of the speech in a message of `History.messages`."""
    return sum(len(part.units) for part in _speech(message.content))


def num_spoken(message: Message) -> int:
    """The stretches of speech in such a message."""
    return sum(1 for _ in _speech(message.content))


def _speech(content: object) -> Iterator[Units]:
    return (part for part in content if isinstance(part, Units)) if isinstance(content, tuple) else iter(())
