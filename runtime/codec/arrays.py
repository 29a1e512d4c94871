"""Units and mels from callers, checked before they reach a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import Array, as_array

__all__ = ["bands_first", "unit_array"]


def unit_array(name: str, value: Any, num_units: int) -> Array:
    """Unit numbers below `num_units`, as int64 (n,), n > 0."""
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


def bands_first(name: str, mel: Any) -> Array:
    """A mel as (80, frames); speaker files store it as (1, frames, 80)."""
    array = as_array(name, mel)
    single = array.ndim == 3 and array.shape[0] == 1 and array.shape[2] == MEL_BANDS
    rows: Array = array[0] if single else array
    frames_first = rows.ndim == 2 and rows.shape[0] != MEL_BANDS and rows.shape[1] == MEL_BANDS
    return rows.T if single or frames_first else rows
