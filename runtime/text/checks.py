"""The form of a request: what can be found wrong in it without reading a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.types import ROLES, Content, Image, Message, Part, Request, SamplingParams, Speech, Units

__all__ = ["CheckedMessage", "PlacedPart", "at", "check_request", "unit_numbers"]

_PARTS: dict[str, tuple[type, ...]] = {
    "system": (str,),
    "user": (str, Image, Speech, Units),
    "assistant": (str, Speech, Units),
}
"""What the messages of each role may hold."""


@dataclass(frozen=True)
class PlacedPart:
    """A part of a message and its place, such as `messages[1].content[0]`."""

    where: str
    part: Part


@dataclass(frozen=True)
class CheckedMessage:
    """A message of known role and parts; the numbers of its `Units` are a tuple of int."""

    where: str
    role: str
    parts: tuple[PlacedPart, ...]


@contextmanager
def at(where: str) -> Iterator[None]:
    """Say in front of an `InvalidRequest` from inside where in the request it is."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error}") from error


def check_request(request: Request, limits: InputLimits, *, is_open: bool = False) -> list[CheckedMessage]:
    """The messages of a request, of which at most the first is a system message.

    is_open: the last message is still being spoken; its last part is `Units`, perhaps none yet.
    `InvalidRequest` if they make no conversation, hold what they cannot, hold nothing, or are over the
    limits.
    """
    _check_options(request)
    if (request.content is None) == (request.messages is None):
        found = "neither" if request.content is None else "both"
        raise InvalidRequest(f"request: expected either content or messages, found {found}")
    if request.messages is None:
        messages = [_checked("content", "user", cast(Content, request.content))]
    else:
        messages = _conversation(request.messages, limits)
    _check_speech([placed for message in messages for placed in message.parts], is_open=is_open)
    parts = [placed.part for message in messages for placed in message.parts]
    num_images = sum(isinstance(part, Image) for part in parts)
    if num_images > limits.max_images:
        raise InvalidRequest(f"images: expected at most {limits.max_images}, found {num_images}")
    num_chars = len(request.system or "") + sum(len(part) for part in parts if isinstance(part, str))
    if num_chars > limits.max_text_chars:
        raise InvalidRequest(f"text: expected at most {limits.max_text_chars} characters, found {num_chars}")
    return messages


def _check_options(request: Request) -> None:
    """`InvalidRequest` if the request, or anything in it beside its messages, is not what it must be."""
    if not isinstance(request, Request):
        raise InvalidRequest(f"request: expected a Request, found {_kind(request)}")
    modalities = request.modalities
    listed = modalities if isinstance(modalities, (list, tuple)) else ()
    names = {name for name in listed if isinstance(name, str)}
    if names not in ({"text"}, {"text", "audio"}) or len(names) != len(listed):
        raise InvalidRequest(
            f'modalities: expected ("text",) or ("text", "audio"), found {modalities!r:.200}'
        )
    for name in ("system", "voice", "request_id"):
        value = getattr(request, name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name}: expected a string or None, found {_kind(value)}")
    params = request.sampling_params
    if params is not None and not isinstance(params, SamplingParams):
        raise InvalidRequest(f"sampling_params: expected SamplingParams or None, found {_kind(params)}")


def _conversation(messages: Sequence[Message], limits: InputLimits) -> list[CheckedMessage]:
    if not isinstance(messages, (list, tuple)):
        raise InvalidRequest(f"messages: expected a list of Message, found {_kind(messages)}")
    if not 0 < len(messages) <= limits.max_messages:
        raise InvalidRequest(f"messages: expected 1 to {limits.max_messages} of them, found {len(messages)}")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Message):
            raise InvalidRequest(f"{where}: expected a Message, found {_kind(message)}")
        if not isinstance(message.role, str) or message.role not in ROLES:
            raise InvalidRequest(
                f"{where}.role: expected one of {', '.join(ROLES)}, found {message.role!r:.200}"
            )
        if message.role == "system" and index > 0:
            raise InvalidRequest(f"{where}.role: a system message can only be the first, and only once")
    if messages[-1].role != "user":
        last = len(messages) - 1
        raise InvalidRequest(
            f"messages[{last}].role: expected the last message to be the user's, found {messages[-1].role}"
        )
    return [_checked(f"messages[{i}].content", m.role, m.content) for i, m in enumerate(messages)]


def _checked(where: str, role: str, content: Content) -> CheckedMessage:
    if isinstance(content, (list, tuple)):
        parts = tuple(PlacedPart(f"{where}[{i}]", part) for i, part in enumerate(content))
    else:
        parts = (PlacedPart(where, cast(Part, content)),)
    parts = tuple(_checked_part(role, placed) for placed in parts)
    # An empty system message is how a conversation says that it wants none.
    if role != "system" and all(placed.part == "" for placed in parts):
        raise InvalidRequest(f"{where}: expected content, found nothing or only empty text")
    return CheckedMessage(where, role, parts)


def _checked_part(role: str, placed: PlacedPart) -> PlacedPart:
    if not isinstance(placed.part, _PARTS[role]):
        expected = ", ".join(kind.__name__ for kind in _PARTS[role])
        raise InvalidRequest(
            f"{placed.where}: expected content of the {role} to be {expected}, found {_kind(placed.part)}"
        )
    if isinstance(placed.part, Units):
        return PlacedPart(placed.where, Units(unit_numbers(placed.where, placed.part.units)))
    return placed


def _check_speech(parts: Sequence[PlacedPart], *, is_open: bool) -> None:
    """`InvalidRequest` for speech of no units, but where it is yet to come."""
    if is_open:
        *parts, last = parts
        if not isinstance(last.part, Units):
            raise InvalidRequest(
                f"{last.where}: expected an open request to end in Units, those heard so far or [], "
                f"found {_kind(last.part)}"
            )
    for placed in parts:
        if isinstance(placed.part, Units) and not placed.part.units:
            raise InvalidRequest(f"{placed.where}: expected at least one unit, found none")


def unit_numbers(where: str, units: Any) -> tuple[int, ...]:
    """Unit numbers as int, whatever kind of integers they come as."""
    if isinstance(units, np.ndarray) and units.ndim == 1 and units.dtype.kind in "iu":
        units = units.tolist()
    if not isinstance(units, Sequence) or isinstance(units, (str, bytes)):
        raise InvalidRequest(f"{where}: expected units as a list of unit numbers, found {_kind(units)}")
    for index, unit in enumerate(units):
        if not isinstance(unit, (int, np.integer)) or isinstance(unit, bool):
            raise InvalidRequest(f"{where}.units[{index}]: expected a unit number, found {_kind(unit)}")
    return tuple(map(int, units))


def _kind(value: object) -> str:
    return type(value).__name__
