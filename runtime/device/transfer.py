"""Copies between host and device that wait for nothing but themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["from_device", "to_device"]


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Nobody waits for the copy. On the CPU, the array's own memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def from_device(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Waits for this thread's stream alone. On the CPU, the tensor's own memory."""
    if tensor.device.type != "cuda":
        own: np.ndarray[Any, Any] = tensor.numpy()
        return own
    place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    place.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    copied: np.ndarray[Any, Any] = place.numpy()
    return copied
