"""Copies a request as a client gave it into one made of plain values.

A client may change later what it gave, or give objects of classes with code of their own. Neither is true of
the copies made here, except for the sources of pictures and speech, which are read when they are prepared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.plain import count, flag, integer, items, kind, reading, shown, string
from antiphon.types import (
    MODALITIES,
    ROLES,
    SPOKEN_MODALITIES,
    Image,
    Message,
    Part,
    Request,
    SamplingParams,
    Speech,
    Units,
)

__all__ = [
    "is_plain",
    "plain_options",
    "plain_params",
    "plain_request",
    "plain_samples",
    "plain_speech",
    "plain_units",
]

MAX_NAME_CHARS = 1000
"""Limit for ids and names of voices."""
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 64
"""Samples are counted for up to this rate and this number of channels. The reader knows the real bounds, but
asking it here would load the sound libraries in a caller's event loop."""
MAX_LOOKED_AT = 4096
"""How many items of a list `is_plain` looks at: longer lists are most likely refused for their length."""
_PARTS: dict[str, tuple[type, ...]] = {
    "system": (str,),
    "user": (str, Image, Speech, Units),
    "assistant": (str, Speech, Units),
}
"""What the messages of each role may hold."""
_PLAIN_LISTS = (list, tuple, range, np.ndarray)
"""Walking one of these runs no code of a client's."""


def plain_options(request: object) -> Request:
    """A copy of a request without its content; `InvalidRequest` for an invalid option."""
    if not issubclass(type(request), Request):
        raise InvalidRequest(f"request: expected a Request, got {kind(request)}")
    with reading("request"):
        asked = ("modalities", "sampling_params", "say", "is_speculative", "gapless")
        given = {name: getattr(request, name) for name in asked}
        names = {name: getattr(request, name) for name in ("system", "voice", "request_id")}
    for name, value in names.items():
        if value is not None:
            if not issubclass(type(value), str):
                raise InvalidRequest(f"{name}: expected a string or None, got {kind(value)}")
            names[name] = string(name, value, None if name == "system" else MAX_NAME_CHARS)
    modalities = _modalities(given["modalities"])
    if names["voice"] is not None and "units" in modalities:
        raise InvalidRequest(f"voice: it needs the modality audio, got {', '.join(modalities)}")
    return Request(
        modalities=modalities,
        sampling_params=plain_params(given["sampling_params"]),
        say=_say(given["say"], modalities),
        is_speculative=flag("is_speculative", given["is_speculative"]),
        gapless=flag("gapless", given["gapless"]),
        **names,
    )


def plain_params(params: object) -> SamplingParams | None:
    """A copy of sampling parameters, checked again; None stays None."""
    if params is None:
        return None
    if not issubclass(type(params), SamplingParams):
        raise InvalidRequest(f"sampling_params: expected SamplingParams or None, got {kind(params)}")
    with reading("sampling_params"):
        return SamplingParams(**{name: getattr(params, name) for name in SamplingParams.__dataclass_fields__})


def plain_request(request: object, limits: InputLimits, max_units: int) -> Request:
    """A copy of the whole request; `InvalidRequest` for an invalid option or part, and for more of anything
    than the limits allow. Everything is counted before it is read."""
    options = plain_options(request)
    assert isinstance(request, Request)
    with reading("request"):
        content, messages = request.content, request.messages
    if (content is None) == (messages is None) and (content is not None or options.say is None):
        found = "neither" if content is None else "both"
        raise InvalidRequest(f"request: expected either content or messages, got {found}")
    budget = _Budget(limits, max_units)
    budget.take_chars(len(options.system or "") + len(options.say or ""))
    if content is None and messages is None:
        return options
    if messages is None:
        return replace(options, content=_content("content", "user", content, budget))
    given = items("messages", messages, "a list of Message", limits.max_messages, 1)
    copied = [_message(f"messages[{index}]", message, budget) for index, message in enumerate(given)]
    return replace(options, messages=copied)


def plain_units(where: str, units: object, max_units: int) -> tuple[int, ...]:
    """Unit numbers as int, from any kind of integers: a list or another sequence of them, or a
    one-dimensional array or tensor."""
    expected = "units as a list of unit numbers"
    array = _array(where, units)
    if array is not None:
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidRequest(f"{where}: expected {expected}, got {shown(array)}")
        # Counted before they are read: a view may have more numbers than fit into memory.
        numbers: Sequence[Any] = array.tolist() if len(array) <= max_units else range(len(array))
    else:
        numbers = units  # type: ignore[assignment]
    taken = items(where, numbers, expected, max_units, noun="units")
    if set(map(type, taken)) <= {int}:
        return taken
    return tuple(_unit(f"{where}.units[{index}]", unit) for index, unit in enumerate(taken))


def plain_samples(where: str, samples: Any, limits: InputLimits) -> Any:
    """Samples of speech, counted but not looked at. A view of an array may be larger than memory, and so may
    a list that holds ranges; any other sequence is read only as far as the limits allow."""
    most = int(limits.max_audio_s * MAX_RATE_HZ)
    if issubclass(type(samples), (np.ndarray, Tensor)):
        with reading(where):
            shape = tuple(samples.shape)
        if math.prod(shape) > most * (MAX_CHANNELS if len(shape) > 1 else 1):
            raise InvalidRequest(f"{where}: expected at most {most} samples, got {shown(samples)}")
        return samples
    if not _is_sequence(samples):
        return samples
    found = samples
    if type(samples) not in (list, tuple):
        found = items(where, samples, "a list of samples", most, noun="samples")
    with reading(where):
        num_samples = len(found)
        if num_samples <= most and any(map(_is_sequence, found)):
            rows = [row for row in found if _is_sequence(row)]
            if any(_is_sequence(number) for row in rows for number in islice(row, 1)):
                raise InvalidRequest(f"{where}: expected samples in at most two dimensions, got more")
            num_samples = sum(map(count, rows))
    if num_samples > most:
        raise InvalidRequest(f"{where}: expected at most {most} samples, got {shown(num_samples)}")
    return found


def plain_speech(where: str, speech: object, limits: InputLimits) -> Speech:
    """A copy of a recording that is given alone, its samples counted; `InvalidRequest` for anything else."""
    if not issubclass(type(speech), Speech):
        raise InvalidRequest(f"{where}: expected Speech, got {kind(speech)}")
    with reading(where):
        source, trim_silence = speech.source, speech.trim_silence  # type: ignore[attr-defined]
    return Speech(_sound(where, source, limits), _trim_silence(where, trim_silence))


def _trim_silence(where: str, value: object) -> bool | None:
    return None if value is None else flag(f"{where}: trim_silence", value)


def _sound(where: str, source: Any, limits: InputLimits) -> Any:
    """A recording's source, its samples counted before they are read."""
    if not issubclass(type(source), tuple) or tuple.__len__(source) != 2:
        return source
    samples, rate_hz = tuple.__iter__(source)
    return plain_samples(f"{where}: audio", samples, limits), rate_hz


def _is_sequence(value: Any) -> bool:
    exact = type(value)
    return issubclass(exact, Sequence) and not issubclass(exact, (str, bytes, bytearray, memoryview))


def is_plain(value: Any) -> bool:
    """Whether copying this request, these parameters or these units runs no code of a client's."""
    exact = type(value)
    if exact is Request:
        return all(map(is_plain, _inside(value)))
    return value is None or exact in (*_PLAIN_LISTS, SamplingParams)


def _inside(request: Request) -> Iterator[object]:
    """The parts of a request that are iterated over to copy it, or asked for their fields."""
    yield from (request.modalities, request.sampling_params, request.messages)
    contents = [request.content]
    for message in _first(request.messages):
        yield None if type(message) is Message else message
        contents += [message.content] if type(message) is Message else []
    for content in contents:
        for part in _first(content) or [content]:
            if type(part) is Units:
                yield part.units
            elif type(part) is Speech and type(part.source) is tuple:
                yield from (object() if _is_sequence(samples) else None for samples in part.source[:1])
            else:
                yield None if type(part) in (str, Image, Speech) else part


def _first(listed: Any) -> Sequence[Any]:
    return listed[:MAX_LOOKED_AT] if type(listed) in (list, tuple) else ()


class _Budget:
    """What is left of a request's limits while it is copied."""

    def __init__(self, limits: InputLimits, max_units: int) -> None:
        self.limits = limits
        self.parts = limits.max_parts
        self._num_images = 0
        self._num_chars = 0
        self.max_units = max_units
        self._num_units = 0

    def take_image(self) -> None:
        self._num_images += 1
        if self._num_images > self.limits.max_images:
            raise InvalidRequest(f"images: expected at most {self.limits.max_images}, got more")

    def take_chars(self, count: int) -> None:
        self._num_chars += count
        if self._num_chars > self.limits.max_text_chars:
            raise InvalidRequest(
                f"text: expected at most {self.limits.max_text_chars} characters, got {self._num_chars}"
            )

    def take_units(self, where: str, count: int) -> None:
        self._num_units += count
        if self._num_units > self.max_units:
            raise InvalidRequest(
                f"{where}: expected at most {self.max_units} units in all, got {self._num_units}"
            )


def _message(where: str, message: object, budget: _Budget) -> Message:
    if not issubclass(type(message), Message):
        raise InvalidRequest(f"{where}: expected a Message, got {kind(message)}")
    with reading(where):
        role, content = message.role, message.content  # type: ignore[attr-defined]
    if not issubclass(type(role), str) or str.__str__(role) not in ROLES:
        raise InvalidRequest(f"{where}.role: expected one of {', '.join(ROLES)}, got {shown(role)}")
    role = str.__str__(role)
    return Message(role, _content(f"{where}.content", role, content, budget))


def _content(where: str, role: str, content: object, budget: _Budget) -> Any:
    """A part, or a list of parts."""
    exact = type(content)
    if not _is_sequence(content) or exact is range:
        budget.parts -= 1
        return _part(where, role, content, budget)
    parts = items(where, content, "content", max(0, budget.parts), noun="parts")
    budget.parts -= len(parts)
    return [_part(f"{where}[{index}]", role, part, budget) for index, part in enumerate(parts)]


def _part(where: str, role: str, part: Any, budget: _Budget) -> Part:
    exact = type(part)
    if not issubclass(exact, _PARTS[role]):
        expected = ", ".join(known.__name__ for known in _PARTS[role])
        raise InvalidRequest(f"{where}: expected content of the {role} to be {expected}, got {kind(part)}")
    if issubclass(exact, str):
        budget.take_chars(str.__len__(part))
        return string(where, part)
    with reading(where):
        if issubclass(exact, Image):
            budget.take_image()
            return Image(part.source, flag(f"{where}.exact", part.exact))
        if issubclass(exact, Speech):
            sound = _sound(where, part.source, budget.limits)
            return Speech(sound, _trim_silence(where, part.trim_silence))
        units = plain_units(where, part.units, budget.max_units)
    budget.take_units(where, len(units))
    return Units(units)


def _modalities(modalities: object) -> tuple[str, ...]:
    """In the order of `MODALITIES`."""
    found: tuple[Any, ...] = ()
    if issubclass(type(modalities), (list, tuple)):
        found = items("modalities", modalities, "a list", 4)
    names = {str.__str__(name) for name in found if issubclass(type(name), str)}
    for known in MODALITIES:
        if names == set(known) and len(found) == len(known):
            return known
    expected = ", ".join(f"[{', '.join(known)}]" for known in MODALITIES)
    raise InvalidRequest(f"modalities: expected one of {expected}, got {shown(modalities)}")


def _say(text: object, modalities: tuple[str, ...]) -> str | None:
    if text is None:
        return None
    if not issubclass(type(text), str):
        raise InvalidRequest(f"say: expected a string or None, got {kind(text)}")
    if SPOKEN_MODALITIES.isdisjoint(modalities):
        raise InvalidRequest(f"say: it needs the modality audio or units, got {', '.join(modalities)}")
    said = string("say", text)
    if not said.strip():
        raise InvalidRequest(f"say: expected text to speak, got {shown(said)}")
    return said


def _unit(where: str, unit: object) -> int:
    exact = type(unit)
    if not issubclass(exact, (int, np.integer)) or exact is bool:
        raise InvalidRequest(f"{where}: expected a unit number, got {kind(unit)}")
    return integer(where, unit)


def _array(where: str, units: object) -> np.ndarray[Any, Any] | None:
    """Units given as an array or a tensor, as an array; None for anything else."""
    is_tensor = issubclass(type(units), Tensor)
    if not is_tensor and not issubclass(type(units), np.ndarray):
        return None
    with reading(where):
        return np.asarray(units.detach().cpu() if is_tensor else units)  # type: ignore[attr-defined]
