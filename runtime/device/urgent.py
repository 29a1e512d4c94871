"""A stream whose kernels go before those of other streams: the model's steps, beside the speech that is made.

A step's kernels are short, and listeners wait for each; a vocoder's fill the device for milliseconds, and
have time. With equal priority, a step's kernels would wait behind them. Priorities are of streams, and a
recording keeps that of the stream which it was made on: `stream` is for recording, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["PRIORITY", "UrgentStream"]

PRIORITY = -1
"""Lower goes first. Streams have 0 by default, the speech worker's too."""


class UrgentStream:
    """One for each engine. Does nothing for a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: Any = None
        """None: a CPU's"""
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device, priority=PRIORITY)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Within the context, this thread computes on the stream, and the device is its current one. What it
        launched before is done before, and what it launches afterwards, after: no tensor needs care."""
        if self.stream is None:
            yield
            return
        with torch.cuda.device(self.device):
            outside = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(outside)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                outside.wait_stream(self.stream)
