"""Copies values from callers into plain values of our own.

A value may be of a class that overrides anything: `__iter__` may raise, sleep or never end, `__len__` and
`__repr__` may lie. So counts are bounded before anything is iterated over, numbers and strings are read by
the methods of the built-in types, and any remaining foreign code runs here, in the caller's thread. None of
it reaches the engine's thread.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from antiphon.errors import AntiphonError, ConfigError, InvalidRequest

__all__ = [
    "MAX_INT",
    "choice",
    "count",
    "cut",
    "flag",
    "integer",
    "items",
    "kind",
    "number",
    "one_line",
    "reading",
    "shown",
    "string",
    "told",
]

MAX_INT = 2**63 - 1
MAX_SHOWN_CHARS = 60
MAX_TOLD_CHARS = 200
MAX_SHOWN_ITEMS = 4
MAX_SHOWN_BITS = 200

_NAME = type.__dict__["__name__"]


def kind(value: Any) -> str:
    """The name of a value's type, of bounded length. Asks no metaclass."""
    return cut(_NAME.__get__(type(value)), MAX_SHOWN_CHARS)


def shown(value: Any) -> str:
    """A value as a message shows it: one line of about 200 characters at most. Runs none of its code."""
    exact = type(value)
    if exact in (list, tuple):
        return _shown_items(value)
    if value is None or exact in (bool, float, complex):
        return repr(value)
    if issubclass(exact, int):
        whole = int.__index__(value)
        bits = whole.bit_length()
        return str(whole) if bits <= MAX_SHOWN_BITS else f"an integer of {bits} bits"
    if issubclass(exact, float):
        return repr(float.__float__(value))
    if issubclass(exact, str):
        text = str.__str__(value)
        return repr(text[:MAX_SHOWN_CHARS]) + ("..." if len(text) > MAX_SHOWN_CHARS else "")
    if exact is bytes:
        return repr(value[:MAX_SHOWN_CHARS]) + ("..." if len(value) > MAX_SHOWN_CHARS else "")
    if issubclass(exact, _numpy("number", "bool_")):
        return cut(str(_item(value)), MAX_SHOWN_CHARS)
    if exact in _numpy("ndarray"):
        return cut(f"an array of {value.dtype} of shape {value.shape}", 2 * MAX_SHOWN_CHARS)
    return kind(value)


def told(error: BaseException) -> str:
    """An error as another message reports it: its type and one line, whatever its own message is."""
    message = one_line(error)
    return message if message == kind(error) else f"{kind(error)}: {message}"


def one_line(message: object) -> str:
    """A library's error, or what it printed, as one line of at most 200 characters. For an error without a
    message, its type."""
    try:
        text = str.__str__(str(message))
    except BaseException:  # noqa: BLE001 - reporting an error must not fail because of that error
        text = "its message cannot be printed"
    # Replace what no terminal or log can encode.
    text = " ".join(text[: 4 * MAX_TOLD_CHARS].split()).encode(errors="replace").decode()
    return cut(text, MAX_TOLD_CHARS) or kind(message)


def cut(text: str, length: int, *, middle: bool = False) -> str:
    """At most `length` characters of a text, with dots for those left out, at its end or in its middle."""
    if len(text) <= length:
        return text
    if not middle:
        return f"{text[: length - 3]}..."
    head = (length - 5) // 2
    return f"{text[:head]} ... {text[head + 5 - length :]}"


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Whatever foreign code raises in here becomes an InvalidRequest that names this place."""
    try:
        yield
    except AntiphonError:
        raise
    except Exception as error:
        raise InvalidRequest(f"{where}: it cannot be read: {told(error)}") from error


def integer(
    where: str,
    value: Any,
    low: int | None = None,
    high: int | None = MAX_INT,
    *,
    error: type[InvalidRequest] | type[ConfigError] = InvalidRequest,
) -> int:
    """An int from low to high, given as an int or a numpy scalar, but not as a bool."""
    exact, whole = type(value), None
    if issubclass(exact, int) and exact is not bool:
        whole = int.__index__(value)
    elif _is_numpy_integer(exact):
        whole = _item(value)
    if whole is None or (low is not None and whole < low) or (high is not None and whole > high):
        raise error(f"{where}: expected an integer{_span(low, high)}, got {shown(value)}")
    return whole


def number(
    where: str,
    value: Any,
    low: float,
    high: float | None = None,
    *,
    above: bool = False,
    error: type[InvalidRequest] | type[ConfigError] = InvalidRequest,
) -> float:
    """A finite float from low (above: greater than low) to high, given as an int, float or numpy scalar."""
    found = _float(value)
    if (
        not math.isfinite(found)
        or (found <= low if above else found < low)
        or (high is not None and found > high)
    ):
        span = f"{'>' if above else '>='} {low:g}" + ("" if high is None else f" and <= {high:g}")
        raise error(f"{where}: expected a number {span}, got {shown(value)}")
    return found


def flag(where: str, value: Any, *, error: type[InvalidRequest] | type[ConfigError] = InvalidRequest) -> bool:
    """A bool, given as a bool or a numpy bool."""
    exact = type(value)
    if exact is bool:
        return bool(value)
    if issubclass(exact, _numpy("bool_")):
        return bool(_item(value))
    raise error(f"{where}: expected True or False, got {shown(value)}")


def choice(
    where: str,
    value: Any,
    choices: Sequence[str],
    *,
    error: type[InvalidRequest] | type[ConfigError] = InvalidRequest,
) -> str:
    """One of several words."""
    text = str.__str__(value) if issubclass(type(value), str) else None
    if text is None or text not in choices:
        raise error(f"{where}: expected one of {', '.join(choices)}, got {shown(value)}")
    return text


def string(where: str, value: Any, max_chars: int | None = None) -> str:
    """A plain str of at most `max_chars` characters."""
    if not issubclass(type(value), str):
        raise InvalidRequest(f"{where}: expected a string, got {kind(value)}")
    text = str.__str__(value)
    if max_chars is not None and len(text) > max_chars:
        raise InvalidRequest(f"{where}: expected at most {max_chars} characters, got {len(text)}")
    return text


def count(value: Sequence[Any] | range) -> int:
    """`len`, which also works for a range that is longer than any list."""
    if type(value) is range:
        return max(0, -(-(value.stop - value.start) // value.step))
    return len(value)


def items(
    where: str, value: Any, expected: str, most: int, least: int = 0, *, noun: str = "of them"
) -> tuple[Any, ...]:
    """The items of a list or another sequence: from `least` to `most` of them, counted before they are read.

    expected: what to say if it is not a sequence. noun: what to call the items in an error. If a sequence
    lies about its length, at most `most` + 1 items are read.
    """
    exact = type(value)
    if not issubclass(exact, Sequence) or issubclass(exact, (str, bytes, bytearray, memoryview)):
        raise InvalidRequest(f"{where}: expected {expected}, got {kind(value)}")
    span = f"{least} to {most}" if least else f"at most {most}"
    if exact in (list, tuple):  # runs no code of a client's
        found = len(value)
        if least <= found <= most:
            return tuple(value)
        raise InvalidRequest(f"{where}: expected {span} {noun}, got {found}")
    with reading(where):
        found = count(value)
        if least <= found <= most:
            taken = tuple(islice(iter(value), most + 1))
            found = len(taken)
            if least <= found <= most:
                return taken
    raise InvalidRequest(f"{where}: expected {span} {noun}, got {shown(found)}")


def _float(value: Any) -> float:
    """NaN for what is not a number."""
    exact = type(value)
    if exact is bool:
        return math.nan
    if issubclass(exact, float):
        return float.__float__(value)
    if issubclass(exact, int):
        try:
            return float(int.__index__(value))
        except OverflowError:
            return math.inf
    if _is_numpy_integer(exact) or issubclass(exact, _numpy("floating")):
        return float(_item(value))
    return math.nan


def _is_numpy_integer(exact: type) -> bool:
    """Whether a type is one of numpy's integers. A time difference, which numpy counts among them, is not."""
    return issubclass(exact, _numpy("integer")) and not issubclass(exact, _numpy("timedelta64"))


def _numpy(*names: str) -> tuple[type, ...]:
    """Types of numpy; none if it is not loaded, since then no value can be of its types."""
    numpy = sys.modules.get("numpy")
    return () if numpy is None else tuple(getattr(numpy, name) for name in names)


def _item(scalar: Any) -> Any:
    """A numpy scalar as a Python value, by numpy's own method."""
    (generic,) = _numpy("generic")
    return generic.item(scalar)  # type: ignore[attr-defined]


def _span(low: int | None, high: int | None) -> str:
    if low is not None and low < -MAX_INT:
        return f" of at most {(-low).bit_length() - 1} bits"
    sides = [f">= {low}"] if low is not None else []
    if high is not None and high < MAX_INT:
        sides.append(f"<= {high}")
    return " " + " and ".join(sides) if sides else ""


def _shown_items(values: Sequence[object]) -> str:
    parts = [kind(v) if type(v) in (list, tuple) else shown(v) for v in values[:MAX_SHOWN_ITEMS]]
    rest = [f"... {len(values)} in all"] if len(values) > MAX_SHOWN_ITEMS else []
    inside = cut(", ".join([*parts, *rest]), MAX_TOLD_CHARS)
    if type(values) is list:
        return f"[{inside}]"
    return f"({inside},)" if len(values) == 1 else f"({inside})"
