"""Arrays and tensors that callers hand in, checked before they reach a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.hyperparams import MEL_BANDS
from antiphon.errors import InvalidRequest

__all__ = ["AudioArray", "as_array", "bands_first", "float_array", "integer", "to_numpy", "unit_array"]

Array = np.ndarray[Any, Any]
AudioArray = np.ndarray[Any, np.dtype[np.float32]]


def as_array(name: str, value: Any) -> Array:
    """Anything array-like, tensors of any device and of bfloat16 among them."""
    try:
        array: Array = _from_tensor(value) if isinstance(value, Tensor) else np.asarray(value)
    except Exception as error:  # an object's own conversion may raise anything
        raise InvalidRequest(
            f"{name}: expected an array, got {type(value).__name__}: {error!s:.200}"
        ) from error
    return array


def _from_tensor(tensor: Tensor) -> Array:
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:  # numpy has none
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


def unit_array(name: str, value: Any, num_units: int) -> Array:
    """int64 (n,), n > 0, of unit numbers below `num_units`."""
    array = as_array(name, value)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InvalidRequest(
            f"{name}: expected a non-empty list of integers, got shape {array.shape} of {array.dtype}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_units:
        raise InvalidRequest(f"{name}: expected numbers 0 to {num_units - 1}, got {low} to {high}")
    units: Array = array.astype(np.int64)
    return units


def integer(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InvalidRequest(f"{name}: expected an integer, got {value!r}")
    return int(value)


def bands_first(name: str, mel: Any) -> Array:
    """A mel as (80, frames), which speaker files keep as (1, frames, 80)."""
    array = as_array(name, mel)
    single = array.ndim == 3 and array.shape[0] == 1 and array.shape[2] == MEL_BANDS
    rows: Array = array[0] if single else array
    frames_first = rows.ndim == 2 and rows.shape[0] != MEL_BANDS and rows.shape[1] == MEL_BANDS
    return rows.T if single or frames_first else rows


def to_numpy(tensor: Tensor) -> AudioArray:
    array: AudioArray = tensor.contiguous().cpu().numpy()
    return array
