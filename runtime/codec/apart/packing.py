"""Tensors among plain values, as JSON and bytes, in which they go to another process and come back.

In the JSON a tensor is an object that says where in the bytes it lies, `{"at", "dtype", "shape"}`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from antiphon.device.transfer import from_device, to_device

__all__ = ["Packer", "on_device", "unpacked"]

ALIGNMENT: Final = 16
DTYPES: Final = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class Packer:
    """Collects tensors of one device."""

    def __init__(self) -> None:
        self.num_bytes = 0
        """So far, padding included."""
        self._pieces: list[Tensor] = []

    def put(self, value: Any, base: int = 0) -> Any:
        """The value as JSON has it; its tensors are added. base: where the bytes begin that it will be read
        from."""
        if isinstance(value, Tensor):
            return self._put_tensor(value, base)
        if isinstance(value, dict):
            return {name: self.put(each, base) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.put(each, base) for each in value]
        return value

    def data(self) -> bytes:
        """All tensors, from their device in one copy."""
        if not self._pieces:
            return b""
        flat: bytes = from_device(torch.cat(self._pieces)).tobytes()
        return flat

    def _put_tensor(self, tensor: Tensor, base: int) -> dict[str, Any]:
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        place = {"at": self.num_bytes - base, "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        self._pieces.append(flat)
        if rest := -flat.numel() % ALIGNMENT:
            self._pieces.append(flat.new_zeros(rest))
        self.num_bytes += flat.numel() + rest
        return place


def on_device(data: bytes | bytearray, device: torch.device) -> Tensor:
    """Bytes as uint8 (n,), in one copy."""
    return to_device(np.frombuffer(bytearray(data), np.uint8), device)


def unpacked(value: Any, data: Tensor) -> Any:
    """What `Packer.put` made JSON of. data: its bytes. The tensors share their memory."""
    if isinstance(value, dict):
        if "at" in value:
            return _tensor(value, data)
        return {name: unpacked(each, data) for name, each in value.items()}
    if isinstance(value, list):
        return [unpacked(each, data) for each in value]
    return value


def _tensor(place: dict[str, Any], data: Tensor) -> Tensor:
    dtype, shape = DTYPES[place["dtype"]], place["shape"]
    num_bytes = dtype.itemsize
    for size in shape:
        num_bytes *= size
    return data[place["at"] : place["at"] + num_bytes].view(dtype).view(shape)
