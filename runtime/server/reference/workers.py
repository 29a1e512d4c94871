"""The workers that a controller knows: the built-in one, which is always there, and those that registered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from antiphon.errors import InvalidRequest

__all__ = ["Worker", "WorkerStatus", "Workers"]

SILENCE_S = 30.0
"""A worker that has not been heard of for this long is forgotten."""
MAX_WORKERS = 100


class WorkerStatus(BaseModel):
    """What a worker tells of itself."""

    model_config = ConfigDict(extra="ignore")

    model_names: Annotated[list[str], Field(max_length=100)]
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    queue_length: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


@dataclass
class Worker:
    """A worker of another process."""

    url: str
    status: WorkerStatus
    expires: bool
    """Whether it is forgotten when it is silent."""
    heard_s: float
    """When it was last heard of."""
    num_relayed: int = 0
    """Requests that are being relayed to it."""

    @property
    def load(self) -> float:
        """How long its queue is, for its speed. It may not have told yet of what is relayed to it."""
        return max(self.status.queue_length, self.num_relayed) / self.status.speed

    @contextmanager
    def relaying(self) -> Iterator[None]:
        """Relays a request in this block."""
        self.num_relayed += 1
        try:
            yield
        finally:
            self.num_relayed -= 1


class Workers:
    """The workers that registered, by their URLs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers: dict[str, Worker] = {}

    def all(self) -> list[Worker]:
        """All that have not been silent for too long."""
        oldest_s = self._clock() - SILENCE_S
        silent = [worker for worker in self._workers.values() if worker.expires and worker.heard_s < oldest_s]
        for worker in silent:
            del self._workers[worker.url]
        return list(self._workers.values())

    def register(self, url: str, status: WorkerStatus, *, expires: bool) -> None:
        """Know a worker from now on. `InvalidRequest` for one too many."""
        if url not in self._workers and len(self.all()) >= MAX_WORKERS:
            raise InvalidRequest(f"worker_name: expected at most {MAX_WORKERS} workers")
        self._workers[url] = Worker(url, status, expires, self._clock())

    def hear(self, url: str, queue_length: float) -> bool:
        """A heart beat. Returns whether the worker is known."""
        self.all()
        worker = self._workers.get(url)
        if worker is None:
            return False
        worker.status = worker.status.model_copy(update={"queue_length": queue_length})
        worker.heard_s = self._clock()
        return True

    def forget(self, url: str) -> None:
        """Know a worker no more."""
        self._workers.pop(url, None)

    def least_loaded(self, model: str) -> Worker | None:
        """The one to ask for a model; None if nobody serves it."""
        serving: Sequence[Worker] = [w for w in self.all() if model in w.status.model_names]
        return min(serving, key=lambda worker: worker.load, default=None)
