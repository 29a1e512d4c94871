"""A GPU as the current one of a thread, and a stream of its own for a thread.

Each thread has its own current device, at first GPU 0. Tensors name theirs, but Triton launches on the
current one, and CUDA graphs and streams are made on it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["Streams", "current_device"]

NOTHING = nullcontext()


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Within the context, this thread computes on the device; nothing happens for a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else NOTHING


class Streams:
    """Streams that outlive the threads which compute on them, one for each that computes at the same time.

    What was freed on a stream serves that stream again and no other, and libraries keep a workspace for each:
    a new one for each thread would hold a new share of memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Within the context, this thread computes on a stream of its own; nothing happens for a CPU."""
        if self._device.type != "cuda":
            yield
            return
        with current_device(self._device):
            with self._lock:
                stream = self._idle.pop() if self._idle else torch.cuda.Stream(self._device)
            try:
                with torch.cuda.stream(stream):
                    yield
            finally:
                with self._lock:
                    self._idle.append(stream)
