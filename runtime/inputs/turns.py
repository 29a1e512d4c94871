"""Lets requests take turns with the objects that they share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]


class Turns:
    """One lock per object: threads that use the same object take turns, others do not wait for them.

    A picture that PIL has opened but not read may be part of many requests; if two threads read it at once,
    each of them gets only parts of its file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[int, tuple[threading.Lock, int]] = {}
        """By an object's address, its lock and the number of threads that hold it or wait for it. Each of
        them keeps the object alive, so no other object has that address."""

    @contextmanager
    def of(self, shared: object) -> Iterator[None]:
        with self._lock:
            turn, num_users = self._turns.get(id(shared), (threading.Lock(), 0))
            self._turns[id(shared)] = turn, num_users + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, num_users = self._turns.pop(id(shared))
                if num_users > 1:
                    self._turns[id(shared)] = turn, num_users - 1
