"""Faults where a test wants them: what is raised out of a call of a method, before or behind what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Panic", "injected"]


class Panic(BaseException):
    """What a parser written in Rust raises: no Exception, and no interrupt either."""


@contextmanager
def injected(
    owner: object, method: str, error: BaseException, *, call: int | None = 1, behind: bool = False
) -> Iterator[list[int]]:
    """Raise `error` out of the call of this number, from 1; None: out of each. behind: when its work is done.
    Yields a list with an entry for each time that it was raised."""
    calls, raised, real = [0], list[int](), getattr(owner, method)

    def faulty(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        hits = call is None or calls[0] == call
        if hits and not behind:
            raised.append(calls[0])
            raise error
        result = real(*arguments, **named)
        if hits:
            raised.append(calls[0])
            raise error
        return result

    setattr(owner, method, faulty)
    try:
        yield raised
    finally:
        delattr(owner, method)
