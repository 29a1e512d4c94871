"""The items of a conversation, and what the model reads of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from antiphon.errors import InvalidRequest
from antiphon.plain import shown
from antiphon.types import UNITS_PER_S, Image, Message, Part, Units

__all__ = ["History", "Item", "Role", "new_id"]

Role = Literal["system", "user", "assistant"]
FIRST = "root"
"""Stands for the place before the first item."""


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

    def messages(self, system: str | None = None, also: Sequence[Part] = ()) -> list[Message]:
        """What the model reads: neighbours of one role as one message, since that is how it was trained.

        system: the system message, before the items' own; None: only theirs. also: parts that follow as the
        user's.
        """
        spoken = [(item.role, self._parts(item)) for item in self._items if item.status != "in_progress"]
        opening = [] if system is None else [system]
        opening += [
            part for role, parts in spoken if role == "system" for part in parts if isinstance(part, str)
        ]
        turns = [(role, parts) for role, parts in spoken if role != "system" and parts]
        if also:
            turns.append(("user", tuple(also)))
        messages = [Message("system", "\n\n".join(opening))] if opening else []
        for role, group in groupby(turns, key=lambda turn: turn[0]):
            messages.append(Message(role, tuple(part for _, parts in group for part in parts)))
        return messages

    def _parts(self, item: Item) -> tuple[Part, ...]:
        if item.role == "assistant":
            return (item.heard_text,) if item.heard_text else ()
        return tuple(part for part in item.parts if part != "")

    def _index(self, item_id: str, where: str = "item_id") -> int:
        for index, item in enumerate(self._items):
            if item.item_id == item_id:
                return index
        raise InvalidRequest(f"{where}: expected the id of an item, got {shown(item_id)}")


def heard_until(item: Item, seconds: float) -> Item:
    """A reply of which only this much of its sound was heard."""
    return replace(item, heard_s=seconds)
