"""Stops a decode that is no longer wanted within a layer, not at its end.

The caller of a decode says by `stoppable` how to find out; the networks call `stop_point` between their
layers. This applies only to the caller's block: other threads and decodes outside it are never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Stopped", "current_stop_point", "stop_point", "stoppable"]


class Stopped(Exception):
    """The decode was given up."""


_is_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("is_unwanted", default=None)


@contextmanager
def stoppable(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """A decode inside raises `Stopped` soon after `is_unwanted` has become true.

    `is_unwanted` is called a thousand times a second or more, and must neither wait nor raise.
    """
    token = _is_unwanted.set(is_unwanted)
    try:
        yield
    finally:
        _is_unwanted.reset(token)


def stop_point() -> None:
    """Raise `Stopped` if the current decode is no longer wanted. Does nothing otherwise."""
    is_unwanted = _is_unwanted.get()
    if is_unwanted is not None and is_unwanted():
        raise Stopped


def current_stop_point() -> Callable[[], None] | None:
    """`stop_point`, for what is not Python to call; None if the current decode is not `stoppable`."""
    return None if _is_unwanted.get() is None else stop_point
