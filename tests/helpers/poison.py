"""Values with code of their own: whatever is asked of them raises, and the thread that asked is noted."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Poison", "asked_in", "poisoned"]

METHODS = """
    abs add and array array_interface bool bytes call complex contains divmod enter eq float floordiv
    format fspath ge getattr getattribute getitem gt hash index instancecheck int invert iter le len
    length_hint lt mod mul ne neg next or pos pow radd repr reversed rmul round rsub setitem str sub truediv
""".split()  # noqa: SIM905 - as a list it would take a line each

asked_in: set[str] = set()
"""The names of the threads in which one of their methods was called."""


def _raise(self: Any, *arguments: Any, **options: Any) -> Any:
    asked_in.add(threading.current_thread().name)
    raise RuntimeError(Unprintable())


class Unprintable:
    """What a client's error may hold in place of a message."""

    def __str__(self) -> str:
        raise ValueError("this cannot be printed")

    __repr__ = __str__


def poisoned(base: type, *leave: str) -> Any:
    """A subclass of `base` whose special methods raise, except for those named."""
    methods = {f"__{name}__": _raise for name in METHODS if name not in leave}
    return type("Poisoned" + base.__name__.title(), (base,), methods)


Poison = poisoned(object)
