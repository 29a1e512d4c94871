"""Faults where a test wants them: an error raised out of a method call, before or after its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Panic", "injected"]


class Panic(BaseException):
    """Like the panic of a parser written in Rust: neither an Exception nor an interrupt."""


@contextmanager
def injected(
    owner: object, method: str, error: BaseException, *, call: int | None = 1, behind: bool = False
) -> Iterator[list[int]]:
    """Raises `error` out of the call of this number, from 1, or out of every call if None. behind: after the
    call has done its work. Yields a list with an entry for each time that `error` was raised."""
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
