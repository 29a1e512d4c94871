"""Whether plain messages form a conversation: everything that can be checked without reading a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from antiphon.errors import InvalidRequest
from antiphon.plain import kind
from antiphon.types import Content, Message, Part, Request, Units

__all__ = ["CheckedMessage", "PlacedPart", "at", "check_request"]


@dataclass(frozen=True)
class PlacedPart:
    """A part of a message and its place, such as `messages[1].content[0]`."""

    where: str
    part: Part


@dataclass(frozen=True)
class CheckedMessage:
    """A message whose role and parts have been checked."""

    where: str
    role: str
    parts: tuple[PlacedPart, ...]


@contextmanager
def at(where: str) -> Iterator[None]:
    """Prefix an `InvalidRequest` from inside with its place in the request."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error}") from error


def check_request(request: Request, *, is_growing: bool = False) -> list[CheckedMessage]:
    """The messages of a plain request, of which at most the first is a system message.

    is_growing: the last message is still being spoken; its last part is `Units`, possibly empty.
    There are none where the request only has text to `say`. `InvalidRequest` if they do not form a
    conversation, or if one holds nothing or what it must not hold.
    """
    if is_growing and request.say is not None:
        raise InvalidRequest("say: a request whose user still speaks has no reply yet")
    if is_growing and request.is_speculative:
        raise InvalidRequest("is_speculative: a request whose user still speaks comes after others as it is")
    if request.content is None and request.messages is None:
        return []  # there is only something to say
    if request.messages is None:
        messages = [_checked("content", "user", cast(Content, request.content))]
    else:
        messages = _conversation(request.messages)
    _check_speech([placed for message in messages for placed in message.parts], is_growing=is_growing)
    return messages


def _conversation(messages: Sequence[Message]) -> list[CheckedMessage]:
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            raise InvalidRequest(
                f"messages[{index}].role: a system message can only be the first, and only once"
            )
    if messages[-1].role != "user":
        last = len(messages) - 1
        raise InvalidRequest(
            f"messages[{last}].role: expected the last message to be the user's, got {messages[-1].role}"
        )
    return [_checked(f"messages[{i}].content", m.role, m.content) for i, m in enumerate(messages)]


def _checked(where: str, role: str, content: Content) -> CheckedMessage:
    if isinstance(content, (list, tuple)):
        parts = tuple(PlacedPart(f"{where}[{i}]", part) for i, part in enumerate(content))
    else:
        parts = (PlacedPart(where, cast(Part, content)),)
    # An empty system message is how a conversation asks to have none.
    if role != "system" and all(placed.part == "" for placed in parts):
        raise InvalidRequest(f"{where}: expected content, got nothing or only empty text")
    return CheckedMessage(where, role, parts)


def _check_speech(parts: Sequence[PlacedPart], *, is_growing: bool) -> None:
    """`InvalidRequest` for speech without units, unless it is still to come."""
    if is_growing:
        *parts, last = parts
        if not isinstance(last.part, Units):
            raise InvalidRequest(
                f"{last.where}: expected an open request to end in Units, those heard so far or [], "
                f"got {kind(last.part)}"
            )
    for placed in parts:
        if isinstance(placed.part, Units) and not placed.part.units:
            raise InvalidRequest(f"{placed.where}: expected at least one unit, got none")
