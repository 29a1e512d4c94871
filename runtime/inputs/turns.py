"""One at a time for things that several requests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]


class Turns:
    """Locks by object: those who use the same one take turns, others do not wait for them.

    A picture that PIL has opened, but not read, may be part of many requests; read in two threads at once,
    its file gives each of them parts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[int, tuple[threading.Lock, int]] = {}
        """The lock of an object and how many hold it or wait for it, by the object's address. Each of them
        keeps the object, so the address is of no other."""

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
