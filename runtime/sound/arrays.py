"""Arrays and tensors from callers, checked before they reach a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.errors import InvalidRequest

__all__ = ["AudioArray", "as_array", "float_array", "integer", "to_numpy"]

Array = np.ndarray[Any, Any]
AudioArray = np.ndarray[Any, np.dtype[np.float32]]


def as_array(name: str, value: Any) -> Array:
    """Anything array-like as an array, including tensors on any device and in bfloat16."""
    try:
        array: Array = _from_tensor(value) if isinstance(value, Tensor) else np.asarray(value)
    except Exception as error:  # an object's own conversion may raise anything
        raise InvalidRequest(
            f"{name}: expected an array, got {type(value).__name__}: {error!s:.200}"
        ) from error
    return array


def _from_tensor(tensor: Tensor) -> Array:
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16
        tensor = tensor.float()
    array: Array = tensor.cpu().numpy()
    return array


def float_array(name: str, value: Any, shape: tuple[int | None, ...]) -> AudioArray:
    """A float32 copy of `value`, which must have `shape` (None: any length above 0) and finite numbers."""
    array = as_array(name, value)
    fits = array.ndim == len(shape) and all(
        have > 0 if want is None else have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind != "f":
        wanted = ", ".join("frames" if size is None else str(size) for size in shape)
        raise InvalidRequest(
            f"{name}: expected floating point of shape ({wanted}), got {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InvalidRequest(f"{name}: expected finite numbers, got NaN or infinity")
    return np.array(array, np.float32)


def integer(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InvalidRequest(f"{name}: expected an integer, got {value!r}")
    return int(value)


def to_numpy(tensor: Tensor) -> AudioArray:
    array: AudioArray = tensor.contiguous().cpu().numpy()
    return array
