"""The items of a conversation, and what the model reads of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
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
        return self._items[index - 1].item_id if index else None

    def change(self, item: Item) -> None:
        """Put a changed item in place of the one of its id, if that is still there."""
        self._items = [item if each.item_id == item.item_id else each for each in self._items]

    def remove(self, item_id: str) -> None:
        """InvalidRequest if there is none of this id."""
        del self._items[self._index(item_id)]

    def messages(
        self, system: str | None = None, also: Sequence[Part] = (), *, remembers: bool = True
    ) -> list[Message]:
        """What the model reads: neighbours of one role as one message, since that is how it was trained.

        system: the system message, before the items' own; None: only theirs. also: parts that follow as the
        user's. remembers: False for nothing but the system message and what is new, which is all that came
        after the last reply or spoken turn.
        """
        given = [item for item in self._items if item.status != "in_progress"]
        opening = [] if system is None else [system]
        opening += [item.text for item in given if item.role == "system" and item.text]
        turns = [item for item in given if item.role != "system" and self._parts(item)]
        if not remembers:
            turns = turns[_start_of_news(turns if also else turns[:-1]) :]
        spoken = [(item.role, self._parts(item)) for item in turns]
        if also:
            spoken.append(("user", tuple(also)))
        messages = [Message("system", "\n\n".join(opening))] if opening else []
        for role, group in groupby(spoken, key=lambda turn: turn[0]):
            messages.append(Message(role, tuple(part for _, parts in group for part in parts)))
        return messages

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
