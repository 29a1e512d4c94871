"""The threads that read requests: a few at a time, the others wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from antiphon.aio.engine_thread import NUM_PREPARE_THREADS
from antiphon.bench.simulate.costs import PREPARE
from antiphon.bench.simulate.events import Machine

__all__ = ["Readers"]


class Readers:
    """Of one replica."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._num_busy = 0

    def read(self, work_s: float, ready: Callable[[], None]) -> None:
        """`ready` is called when it has been read, which is so much work."""
        self._waiting.append((work_s, ready))
        self._begin()

    def stop(self) -> None:
        """Drop what waits; the machine has dropped the rest."""
        self._waiting.clear()
        self._num_busy = 0

    def _begin(self) -> None:
        while self._waiting and self._num_busy < NUM_PREPARE_THREADS:
            work_s, ready = self._waiting.popleft()
            self._num_busy += 1
            self._machine.begin(PREPARE, work_s, partial(self._end, ready))

    def _end(self, ready: Callable[[], None]) -> None:
        self._num_busy -= 1
        self._begin()
        ready()
