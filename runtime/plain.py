"""What others hand in, copied into plain values of our own.

A value may be of a class that overrides anything: `__iter__` may raise, sleep or never end, `__len__` and
`__repr__` may lie. So counts are bounded before anything is walked, numbers and strings are read by the
methods of the built-in types, and what is left of foreign code runs here, in the thread of whoever called.
Nothing of it reaches the engine's thread.
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
    """The name of a value's type, bounded. A metaclass is not asked."""
    return cut(_NAME.__get__(type(value)), MAX_SHOWN_CHARS)


def shown(value: Any) -> str:
    """A value as a message shows it: one line of at most some 200 characters. Runs no code of the value's."""
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
    """An error as another one tells it: its type and one line, whatever its own message is."""
    message = one_line(error)
    return message if message == kind(error) else f"{kind(error)}: {message}"


def one_line(message: object) -> str:
    """A library's error, or what it printed, as one line of at most 200 characters. Of an error that says
    nothing, its type."""
    try:
        text = str.__str__(str(message))
    except BaseException:  # noqa: BLE001 - reporting an error must not fail because of that error
        text = "its message cannot be printed"
    # What no terminal or log can encode is replaced.
    text = " ".join(text[: 4 * MAX_TOLD_CHARS].split()).encode(errors="replace").decode()
    return cut(text, MAX_TOLD_CHARS) or kind(message)


def cut(text: str, length: int, *, middle: bool = False) -> str:
    """At most `length` characters of a text, with dots for those left out: its end, or its middle."""
    if len(text) <= length:
        return text
    if not middle:
        return f"{text[: length - 3]}..."
    head = (length - 5) // 2
    return f"{text[:head]} ... {text[head + 5 - length :]}"


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Whatever foreign code raises in here becomes an InvalidRequest of this place."""
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
    """An int from low to high, from an int or a scalar of numpy's; a bool is not one."""
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
    """A finite float from low (above: greater than low) to high, from an int, float or scalar of numpy's."""
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
    """A bool, from a bool or one of numpy's."""
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
    """`len` that also knows that of a range which is longer than any list."""
    if type(value) is range:
        return max(0, -(-(value.stop - value.start) // value.step))
    return len(value)


def items(
    where: str, value: Any, expected: str, most: int, least: int = 0, *, noun: str = "of them"
) -> tuple[Any, ...]:
    """What a list or another sequence holds: from `least` to `most` of them, counted before they are walked.

    expected: what to say where it is not a sequence. noun: what there are too many of. A sequence that
    lies about its length is read to `most`, and one more.
    """
    exact = type(value)
    if not issubclass(exact, Sequence) or issubclass(exact, (str, bytes, bytearray, memoryview)):
        raise InvalidRequest(f"{where}: expected {expected}, got {kind(value)}")
    span = f"{least} to {most}" if least else f"at most {most}"
    if exact in (list, tuple):  # nothing of a client's is run
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
    """A time difference, which numpy counts among them, is not one."""
    return issubclass(exact, _numpy("integer")) and not issubclass(exact, _numpy("timedelta64"))


def _numpy(*names: str) -> tuple[type, ...]:
    """Types of numpy's; none where it is not loaded, which it is where there is one of them."""
    numpy = sys.modules.get("numpy")
    return () if numpy is None else tuple(getattr(numpy, name) for name in names)


def _item(scalar: Any) -> Any:
    """A scalar of numpy's as a value of Python's, by numpy's own method."""
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
