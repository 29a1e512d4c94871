"""A stand-in for the part of torch.cuda that streams and graphs are made by. What a GPU would fail at, it
raises: two recordings at a time, a recording on a stream of another GPU, and a pool whose graphs are gone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import torch

__all__ = ["STREAMS", "FakeCuda", "FakeGraph", "FakeStream"]

NUM_DEVICES = 2
CAPABILITY = (8, 0)
HANDLES = count(1)


class FakeStream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.index = CURRENT.index if device is None or device.index is None else device.index
        self.num_waits = 0
        self.cuda_stream = next(HANDLES)
        self.jobs: list[Callable[[], None]] = []
        """What was launched and is not done before another stream waits for this one."""
        STREAMS[self.cuda_stream] = self

    def wait_stream(self, other: FakeStream) -> None:
        assert other.index == self.index
        self.num_waits += 1
        while other.jobs:
            other.jobs.pop(0)()

    def synchronize(self) -> None:
        if FakeCuda.recording is self:
            raise RuntimeError("operation not permitted when stream is capturing")


class _Current(threading.local):
    index = 0
    """Each thread begins at GPU 0."""
    stream: FakeStream | None = None


CURRENT = _Current()
STREAMS: weakref.WeakValueDictionary[int, FakeStream] = weakref.WeakValueDictionary()
"""By the handle that a library is given."""


class FakeGraph:
    def __init__(self) -> None:
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1


class FakeCuda:
    """Put in place of torch.cuda's own for the length of a test."""

    recording: FakeStream | None = None
    """The stream that records."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.streams: list[FakeStream] = []
        self.recorded_on: list[FakeStream] = []
        self.current = CURRENT
        self._pools: dict[int, list[weakref.ref[FakeGraph]]] = {}
        self._lock = threading.Lock()
        FakeCuda.recording = None
        for name in (
            "device",
            "stream",
            "current_stream",
            "current_device",
            "graph",
            "graph_pool_handle",
            "synchronize",
            "is_current_stream_capturing",
        ):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", self.new_stream)
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: CAPABILITY)

    def new_stream(self, device: torch.device | None = None, priority: int = 0) -> FakeStream:
        self.streams.append(FakeStream(device))
        return self.streams[-1]

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before = CURRENT.index
        CURRENT.index = before if device.index is None else device.index
        assert CURRENT.index < NUM_DEVICES
        try:
            yield
        finally:
            CURRENT.index = before

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before = CURRENT.stream
        CURRENT.stream = stream
        try:
            with self.device(torch.device("cuda", stream.index)):
                yield
        finally:
            CURRENT.stream = before

    def current_stream(self, device: torch.device | None = None) -> FakeStream:
        return CURRENT.stream or FakeStream(device)

    def current_device(self) -> int:
        return CURRENT.index

    def synchronize(self, device: torch.device | None = None) -> None:
        if FakeCuda.recording is not None:
            raise RuntimeError("a wait for the whole device while a graph is recorded")

    def is_current_stream_capturing(self) -> bool:
        return FakeCuda.recording is not None and FakeCuda.recording is CURRENT.stream

    def graph_pool_handle(self) -> tuple[int, int]:
        with self._lock:
            self._pools[len(self._pools)] = []
            return 0, len(self._pools) - 1

    @contextmanager
    def graph(
        self,
        graph: FakeGraph,
        pool: tuple[int, int] | None = None,
        stream: FakeStream | None = None,
        capture_error_mode: str = "global",
    ) -> Iterator[None]:
        assert stream is not None, "torch's common stream is of whichever GPU came first"
        assert stream.index == CURRENT.index
        assert capture_error_mode == "thread_local"
        with self._lock:
            assert FakeCuda.recording is None, "only one capture may be underway at a time in the process"
            FakeCuda.recording = stream
        if pool is not None:
            graphs = self._pools[pool[1]]
            assert not graphs or any(each() is not None for each in graphs), "use_count > 0 INTERNAL ASSERT"
            graphs.append(weakref.ref(graph))
        self.recorded_on.append(stream)
        try:
            with self.stream(stream):
                yield
        finally:
            FakeCuda.recording = None
