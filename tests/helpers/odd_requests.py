"""Long, odd or false values that a client may give an engine, in each place of a request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
from poison import Poison, asked_in, poisoned

from antiphon import Image, Message, Request, SamplingParams, Speech, Units

__all__ = ["Endless", "PoisonedList", "PoisonedStr", "odd_requests", "pushes"]

SHORT = SamplingParams(max_tokens=3)
PICTURE = np.zeros((8, 8, 3), np.uint8)
PoisonedStr, PoisonedInt, PoisonedFloat = poisoned(str), poisoned(int), poisoned(float)
PoisonedList, PoisonedTuple = poisoned(list), poisoned(tuple)


class Endless(Sequence[Any]):
    """Says that it is short, and is not."""

    def __init__(self, item: Any) -> None:
        self._item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return self._item

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._item)


class Lying(Endless):
    """Says that it is longer than anything, and is empty."""

    def __len__(self) -> int:
        return 2**80

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def objects(item: Any) -> Any:
    array = np.empty(1, object)
    array[0] = item
    return array


class PoisonedRequest(Request):
    """Each of its fields raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in Request.__dataclass_fields__:
            asked_in.add(threading.current_thread().name)
            raise RuntimeError(name)
        return super().__getattribute__(name)


class PoisonedParams(SamplingParams):
    """Becomes poisonous once it is made."""

    def __getattribute__(self, name: str) -> Any:
        if name in SamplingParams.__dataclass_fields__ and "armed" in object.__getattribute__(
            self, "__dict__"
        ):
            raise RuntimeError(name)
        return super().__getattribute__(name)


def armed(params: SamplingParams) -> SamplingParams:
    object.__setattr__(params, "armed", True)
    return params


def changed(params: SamplingParams, **values: Any) -> SamplingParams:
    """Changes frozen parameters all the same, behind the back of their checks."""
    for name, value in values.items():
        object.__setattr__(params, name, value)
    return params


def a_request(**options: Any) -> Request:
    return Request("Hello", **options)


def odd_requests() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Requests with their parameters, made when needed."""

    def one(request: Callable[[], Any], params: Callable[[], Any] = lambda: SHORT) -> Any:
        return lambda: (request(), params())

    return {
        "no request": one(Poison),
        "no parameters": one(a_request, Poison),
        "a request whose fields raise": one(lambda: PoisonedRequest("Hello")),
        "parameters whose fields raise": one(a_request, lambda: armed(PoisonedParams())),
        "parameters changed later: a flag": one(
            a_request, lambda: changed(SamplingParams(), ignore_eos=np.zeros(3))
        ),
        "parameters changed later: a limit": one(
            a_request, lambda: changed(SamplingParams(), max_tokens=10**5000)
        ),
        "parameters changed later: stop": one(
            a_request, lambda: changed(SamplingParams(), stop=Endless("."))
        ),
        "parameters changed later: poison": one(
            a_request, lambda: changed(SamplingParams(), temperature=Poison())
        ),
        "parameters of the request": one(
            lambda: a_request(sampling_params=changed(SamplingParams(), seed=Poison())), lambda: None
        ),
        "content": one(lambda: Request(Poison())),
        "content: str": one(lambda: Request(PoisonedStr("Hello"))),
        "content: list": one(lambda: Request(PoisonedList(["Hello"]))),
        "content: tuple": one(lambda: Request(PoisonedTuple(["Hello"]))),
        "content: endless": one(lambda: Request(Endless("Hello"))),
        "content: lying": one(lambda: Request(Lying("Hello"))),
        "content: ten million parts": one(lambda: Request([""] * 10_000_000)),
        "content: a part": one(lambda: Request(["Hello", Poison()])),
        "messages": one(lambda: Request(messages=Poison())),
        "messages: list": one(lambda: Request(messages=PoisonedList([Message("user", "Hello")]))),
        "messages: endless": one(lambda: Request(messages=Endless(Message("user", "Hello")))),
        "messages: ten million": one(lambda: Request(messages=[Message("user", "Hello")] * 10_000_000)),
        "a message": one(lambda: Request(messages=[poisoned(Message)("user", "Hello")])),
        "a role": one(lambda: Request(messages=[Message(PoisonedStr("user"), "Hello")])),
        "modalities": one(lambda: a_request(modalities=Poison())),
        "modalities: list": one(lambda: a_request(modalities=PoisonedList(["text"]))),
        "modalities: str": one(lambda: a_request(modalities=[PoisonedStr("text")])),
        "modalities: endless": one(lambda: a_request(modalities=Endless("text"))),
        "system": one(lambda: a_request(system=PoisonedStr("Be kind."))),
        "voice": one(lambda: a_request(voice=PoisonedStr("anna"))),
        "voice: another": one(lambda: a_request(voice=PoisonedStr("x" * 10**7))),
        "request_id": one(lambda: a_request(request_id=PoisonedStr("an id"))),
        "request_id: long": one(lambda: a_request(request_id="x" * 10**7)),
        "units": one(lambda: Request(Units(Poison()))),
        "units: a subclass": one(lambda: Request(poisoned(Units)([1, 2]))),
        "units: list": one(lambda: Request(Units(PoisonedList([1, 2])))),
        "units: int": one(lambda: Request(Units([1, PoisonedInt(2)]))),
        "units: float": one(lambda: Request(Units([1, PoisonedFloat(2)]))),
        "units: objects": one(lambda: Request(Units(objects(Poison())))),
        "units: endless": one(lambda: Request(Units(Endless(1)))),
        "units: a generator": one(lambda: Request(Units(iter([1])))),  # type: ignore[arg-type]
        "units: a range": one(lambda: Request(Units(range(10**30)))),
        "units: a view": one(lambda: Request(Units(np.broadcast_to(np.int8(1), 10**12)))),  # type: ignore[arg-type]
        "units: a large number": one(lambda: Request(Units([10**5000]))),
        "units in many parts": one(lambda: Request([Units([1] * 3000)] * 4000)),
        "picture": one(lambda: Request([Image(Poison()), "?"])),
        "picture: a subclass": one(lambda: Request([poisoned(Image)(PICTURE), "?"])),
        "picture: exact": one(lambda: Request([Image(PICTURE, exact=Poison()), "?"])),
        "picture: exact as an array": one(lambda: Request([Image(PICTURE, exact=np.zeros(3)), "?"])),  # type: ignore[arg-type]
        "picture: str": one(lambda: Request([Image(PoisonedStr("nowhere.png")), "?"])),
        "picture: list": one(lambda: Request([Image(PoisonedList([PICTURE])), "?"])),
        "picture: a view": one(lambda: Request([Image(np.broadcast_to(np.uint8(0), (10**9, 10**9))), "?"])),
        "pictures: too many": one(lambda: Request([Image(PICTURE)] * 4000)),
        "speech": one(lambda: Request(Speech(Poison()))),
        "speech: samples": one(lambda: Request(Speech((Poison(), 16000)))),
        "speech: list": one(lambda: Request(Speech((PoisonedList([1.0]), 16000)))),
        "speech: a number": one(lambda: Request(Speech(([1.0, PoisonedFloat(2.0)], 16000)))),
        "speech: rate": one(lambda: Request(Speech((np.ones(3, np.float32), Poison())))),
        "speech: a large rate": one(lambda: Request(Speech((np.ones(3, np.float32), 10**5000)))),
        "speech: a range": one(lambda: Request(Speech((range(10**30), 16000)))),
        "speech: ranges": one(lambda: Request(Speech(([range(10**12)], 16000)))),
        "speech: endless": one(lambda: Request(Speech((Endless(1.0), 16000)))),
        "speech: a view": one(lambda: Request(Speech((np.broadcast_to(np.float32(0), (10**10, 2)), 16000)))),
    }


def pushes() -> dict[str, Callable[[Any], Awaitable[None]]]:
    """What may be pushed into an open session."""
    view = np.broadcast_to(np.float32(0), 10**12)
    return {
        "units": lambda s: s.push_units(Poison()),
        "units: list": lambda s: s.push_units(PoisonedList([1, 2])),
        "units: int": lambda s: s.push_units([PoisonedInt(1)]),
        "units: endless": lambda s: s.push_units(Endless(1)),
        "units: lying": lambda s: s.push_units(Lying(1)),
        "units: a large number": lambda s: s.push_units([10**5000]),
        "units: a range": lambda s: s.push_units(range(10**30)),
        "units: not said": lambda s: s.push_units(None),
        "audio": lambda s: s.push_audio(Poison(), 16000),
        "audio: list": lambda s: s.push_audio(PoisonedList([1.0]), 16000),
        "audio: a range": lambda s: s.push_audio(range(10**30), 16000),
        "audio: a view": lambda s: s.push_audio(view, 16000),
        "audio: rate": lambda s: s.push_audio(np.ones(4, np.float32), Poison()),
        "audio: a large rate": lambda s: s.push_audio(np.ones(4, np.float32), 10**5000),
    }
