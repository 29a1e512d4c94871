"""Records kernels once and launches them as one: worthwhile where each lasts only microseconds."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from antiphon.device.current import current_device

__all__ = ["Capture", "CudaCapture", "capture_for"]

Result = TypeVar("Result", bound="Tensor | tuple[Tensor, ...]")

NUM_WARM_UPS = 2
"""Calls before recording: in the first ones libraries choose algorithms and allocate workspaces."""


_RECORDING = threading.Lock()
"""Held while a graph is recorded: CUDA has several recordings side by side, but torch keeps account of one,
and waits for the whole device when it begins one, which would break another."""


class Capture(Protocol):
    """Records a function without arguments that reads and writes the same tensors in every call.

    The returned function repeats what was recorded; its result is in the same memory every time, and lasts
    until any function recorded by the same object is called.
    """

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]: ...

    def wait(self) -> None:
        """Wait until all that was replayed is done: then the host may read what it has copied."""


class CudaCapture:
    """CUDA graphs that share one memory pool, so that many sizes take the memory of the largest.

    They must be called one after the other, on one stream. Other threads may compute on the device at the
    same time, even while a graph is being recorded, but not wait for all of the device (as
    `torch.cuda.synchronize` does): that makes the recording fail, and the wait.
    """

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        """priority: that of the stream it records on, which recordings keep; lower goes first."""
        self.device = device
        self._priority = priority
        self._pool: Any = None
        self._stream: Any = None
        """Its own: torch's common one can be of another GPU, and another may be recording on it."""
        self._replays: weakref.WeakSet[Callable[[], Any]] = weakref.WeakSet()
        """Those that are not dropped yet."""

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        with current_device(self.device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self.device, priority=self._priority)
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(NUM_WARM_UPS):
                    function()
            current.wait_stream(self._stream)
            replay = self._record(function)
        self._replays.add(replay)
        return replay

    def _record(self, function: Callable[[], Result]) -> Callable[[], Result]:
        if not self._replays:  # a pool ends with the last of its graphs
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: the model's thread may allocate and wait, which by default would break the recording.
        recording = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        with _RECORDING, recording:
            result = function()

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()


def capture_for(device: torch.device, *, enforce_eager: bool, priority: int = 0) -> Capture | None:
    """What records on this device; None if kernels run one by one."""
    return CudaCapture(device, priority) if device.type == "cuda" and not enforce_eager else None
