"""Numbers on their way to a device and back: many small arrays that cross in a single copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Results", "Staging"]

ALIGNMENT = 16
"""Bytes; kernels read that much at a time."""
Shape = tuple[int, ...]


class Staging:
    """Arrays of several shapes and types that lie side by side, once on the host and once on the device.

    The host's memory is pinned, so that the device copies it by itself. It must not be written again before
    that copy is done.
    """

    def __init__(self, fields: Mapping[str, tuple[torch.dtype, Shape]], device: torch.device) -> None:
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (dtype, shape) in fields.items():
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + dtype.itemsize * torch.Size(shape).numel()
            places[name] = start, end
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.zeros(end, dtype=torch.uint8, device=device)
        self.host: dict[str, NDArray[Any]] = {}
        self.device: dict[str, Tensor] = {}
        for name, (dtype, shape) in fields.items():
            start, end = places[name]
            self.host[name] = self._host[start:end].view(dtype).view(shape).numpy()
            self.device[name] = self._device[start:end].view(dtype).view(shape)

    def send(self) -> None:
        """Copy the host's numbers to the device, in the order of its stream."""
        self._device.copy_(self._host, non_blocking=True)


class Results:
    """int64 numbers that a device has computed, on the host once its stream has been waited for."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._host = torch.zeros(shape, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.numbers: NDArray[np.int64] = self._host.numpy()

    def fetch(self, numbers: Tensor) -> None:
        """Copy the device's numbers to the host, in the order of its stream."""
        self._host.copy_(numbers, non_blocking=True)
