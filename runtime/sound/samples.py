"""Converts callers' arrays of samples to mono float32 within [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import Array, AudioArray, as_array

__all__ = [
    "MAX_CHANNELS",
    "MAX_RATE_HZ",
    "SampleReader",
    "check_rate",
    "mono_samples",
    "num_frames",
    "to_unit",
]

MAX_RATE_HZ = 192_000
MAX_CHANNELS = 32
MAX_NUMBERS = 2**28
"""In an array, all channels together: views may claim any size, and are copied."""
HEADROOM = 8.0
"""Floating point up to this (18 dB over full scale) is merely loud: mixing, resampling and lossy decoding
overshoot."""
QUIETEST_INTEGERS = 256.0
"""Floating-point numbers that are not whole but peak at this or more (-42 dB of 16 bits) were made from
integers."""
LARGEST = float(np.finfo(np.float32).max)


class FullScale(NamedTuple):
    """`zero` stands for silence, and `zero` + `scale` for 1.0."""

    scale: float
    zero: float = 0.0


UNIT = FullScale(1.0)
INTEGERS = {
    "int8": FullScale(2.0**7),
    "uint8": FullScale(2.0**7, 2.0**7),
    "int16": FullScale(2.0**15),
    "uint16": FullScale(2.0**15, 2.0**15),
    "int32": FullScale(2.0**31),
}
INT24 = FullScale(2.0**23)
SIGNED = (INTEGERS["int16"], INT24, INTEGERS["int32"])
UNSIGNED = (INTEGERS["uint8"], INTEGERS["uint16"])


def mono_samples(samples: Any) -> AudioArray:
    """An array or tensor of samples as mono float32 (frames,), channels averaged.

    Its shape is (frames,), (frames, channels), or (channels, frames), as torchaudio returns it, if there are
    more than 32 frames or one channel. Its numbers are

    - floating point within [-1, 1]; values beyond that, up to 8, which mixing and resampling cause, stay;
    - int8, int16, uint8 or uint16 over their full range, or int32: numbers that fit in 16 or 24 bits are
      taken to have that range (but multiples of 256 that do not fit in 16 bits are taken to have 32);
    - such integers as floating point, as `astype` leaves them, including averaged and resampled ones: read
      like those in int32, or as unsigned if they lie around the middle of 8 or 16 bits.

    Raises InvalidRequest for any other shape, type or numbers.
    """
    return SampleReader().read(samples)


class SampleReader:
    """`mono_samples` of sound that comes in pieces: a quiet piece is read in the range that was found for a
    louder piece before it."""

    def __init__(self) -> None:
        self._found: dict[str, FullScale] = {}

    def read(self, samples: Any, *, or_none: bool = False, scales_floats: bool = True) -> AudioArray:
        """or_none: a piece may be empty. scales_floats: False checks floating point but leaves it as it is,
        for a later reader to scale."""
        _check_count(samples)
        array = _frames_first(as_array("audio", samples))
        _check_numbers(samples, array)
        if array.shape[0] == 0:
            if or_none:
                return np.zeros(0, np.float32)
            raise InvalidRequest("audio: expected at least one sample, got none")
        low, high = float(array.min()), float(array.max())
        if not -LARGEST <= low <= high <= LARGEST:
            raise InvalidRequest("audio: expected finite samples, got NaN or infinity")
        kind = "f" if array.dtype.kind == "f" else array.dtype.name
        found = _full_scale(array, low, high, self._found.get(kind, UNIT))
        self._found[kind] = found
        if found != UNIT and (kind != "f" or scales_floats):
            array = (array.astype(np.float64) - found.zero) / found.scale
        mono = array if array.ndim == 1 else array.mean(axis=1, dtype=np.float64)
        return np.ascontiguousarray(mono, dtype=np.float32)


def to_unit(mono: AudioArray) -> AudioArray:
    """A file's samples, float32 (n,), n > 0, finite, scaled to [-1, 1]: a file in floating point may hold the
    numbers of integers, just as an array may (see `mono_samples`)."""
    found = _full_scale(mono, float(mono.min()), float(mono.max()), UNIT)
    if found == UNIT:
        return mono
    scaled: AudioArray = ((mono.astype(np.float64) - found.zero) / found.scale).astype(np.float32)
    return scaled


def num_frames(samples: Any) -> int:
    """The number of frames that an array or list of samples claims to have, without looking at them; 0 if it
    cannot say."""
    shape = _shape(samples)
    if not shape:
        return 0
    return shape[1] if len(shape) == 2 and _is_channels_first(shape) else shape[0]


def check_rate(rate_hz: Any) -> int:
    """A sample rate in Hz as an int, or InvalidRequest."""
    is_whole = isinstance(rate_hz, (int, np.integer)) and not isinstance(rate_hz, bool)
    if not is_whole or not 0 < rate_hz <= MAX_RATE_HZ:
        raise InvalidRequest(
            f"audio: expected a rate of 1 to {MAX_RATE_HZ} Hz as an integer, got {rate_hz!r:.200}"
        )
    return int(rate_hz)


def _shape(samples: Any) -> tuple[int, ...]:
    shape = getattr(samples, "shape", None)
    if isinstance(shape, tuple):
        return tuple(int(size) for size in shape)
    if not isinstance(samples, Sequence) or isinstance(samples, (str, bytes)):
        return ()
    inner = samples[0] if samples else None
    columns = _shape(inner)[:1] if isinstance(inner, (Sequence, np.ndarray)) else ()
    return (len(samples), *columns)


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    rows, columns = shape
    return rows <= MAX_CHANNELS < columns or (rows == 1 and columns != 1)


def _check_count(samples: Any) -> None:
    count = 1
    for size in _shape(samples):
        count *= size
    if count > MAX_NUMBERS:
        raise InvalidRequest(f"audio: expected at most {MAX_NUMBERS} numbers, got {count}")


def _check_numbers(samples: Any, array: Array) -> None:
    if np.ma.is_masked(samples):
        raise InvalidRequest("audio: expected an array without masked samples, got one that has some")
    if array.dtype.kind != "f" and array.dtype.name not in INTEGERS:
        raise InvalidRequest(
            f"audio: expected samples in floating point, {', '.join(INTEGERS)}, got {array.dtype}"
        )


def _frames_first(array: Array) -> Array:
    """As (frames,) or (frames, channels)."""
    if array.ndim == 2 and _is_channels_first(array.shape):
        array = array.T
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS):
        raise InvalidRequest(
            f"audio: expected samples of shape (frames,), (frames, channels) or (channels, frames) with 1 to "
            f"{MAX_CHANNELS} channels, got {array.shape}"
        )
    return array


def _full_scale(array: Array, low: float, high: float, before: FullScale) -> FullScale:
    """before: the scale of the pieces before it; UNIT if it is not known."""
    peak = max(-low, high)
    if array.dtype.kind != "f":
        whole = INTEGERS[array.dtype.name]
        return whole if array.dtype.name != "int32" else max(before, _signed(array, peak))
    if peak <= 1:
        return before
    if peak <= INTEGERS["int32"].scale and np.array_equal(array, np.rint(array)):
        if low >= 0:
            middle = float(array.mean(dtype=np.float64))
            for found in UNSIGNED:
                if high < 2 * found.scale and abs(middle - found.zero) < found.zero / 2:
                    return found
        return max(before, _signed(array, peak))
    if before != UNIT and peak <= before.scale + before.zero:
        return before
    if peak <= HEADROOM:
        return UNIT
    if not QUIETEST_INTEGERS <= peak <= INTEGERS["int32"].scale:
        raise InvalidRequest(
            f"audio: expected floating point within [-1, 1] or in the range of integers, "
            f"got values from {low:.4g} to {high:.4g}"
        )
    return max(before, _signed(array, peak))


def _signed(array: Array, peak: float) -> FullScale:
    """The narrowest range that holds the numbers. Numbers of 16 or 24 bits that were shifted to the top of 32
    are multiples of 256."""
    found = next(found for found in SIGNED if peak <= found.scale)
    is_widened = found.scale == INT24.scale and not np.fmod(array, 256).any()
    return INTEGERS["int32"] if is_widened else found
