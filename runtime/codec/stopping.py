"""A decode that nobody wants any more stops within a layer, not at its end.

Whoever decodes says by `stoppable` how to find out; the networks call `stop_point` between their layers. What
is asked belongs to the call: other threads, and whatever decodes outside of the block, are never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Stopped", "stop_point", "stoppable"]


class Stopped(Exception):
    """The decode was given up."""


_is_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("is_unwanted", default=None)


@contextmanager
def stoppable(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """What is decoded inside raises `Stopped` soon after `is_unwanted` has become true.

    It is called some thousand times a second, and must neither wait nor raise.
    """
    token = _is_unwanted.set(is_unwanted)
    try:
        yield
    finally:
        _is_unwanted.reset(token)


def stop_point() -> None:
    """Raise `Stopped` if what is being decoded is not wanted any more. Changes nothing otherwise."""
    is_unwanted = _is_unwanted.get()
    if is_unwanted is not None and is_unwanted():
        raise Stopped
