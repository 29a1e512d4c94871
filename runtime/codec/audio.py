"""Speech that comes in: files, bytes and arrays to mono float32 samples, within limits."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphon.codec.arrays import AudioArray, as_array
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest

if TYPE_CHECKING:
    from soundfile import SoundFile

__all__ = ["MAX_RATE_HZ", "check_duration", "check_rate", "mono_samples", "read_audio"]

MAX_RATE_HZ = 192_000
MAX_CHANNELS = 32
BLOCK_FRAMES = 2**16
FORMATS = "wav, flac, ogg or mp3"
# (full scale, zero) of the integer formats of arrays
INTEGER_SCALES = {"int16": (2**15, 0), "int32": (2**31, 0), "uint8": (2**7, 2**7)}


def read_audio(source: Any, limits: InputLimits | None = None) -> tuple[AudioArray, int]:
    """Reads speech: a path, the bytes of an audio file (wav, flac, ogg, mp3), or (samples, rate_hz).

    Samples of an array are (frames,) or (frames, channels), floating point, int16, int32 or uint8 (128 is
    silence). Returns float32 (frames,), channels averaged, and the rate in Hz. Raises InvalidRequest for
    whatever is missing, empty, corrupt, of another kind, or beyond the limits; a file's length is checked
    before it is decoded.
    """
    limits = limits or InputLimits()
    if isinstance(source, tuple):
        return _read_array(source, limits)
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read_file(source, limits), str(source), limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        _check_bytes(len(data), limits)
        return _decode(data, "these bytes", limits)
    raise InvalidRequest(f"audio: expected a path, bytes or (samples, rate_hz), got {type(source).__name__}")


def mono_samples(samples: Any) -> AudioArray:
    """An array of samples as mono float32 (frames,). Raises InvalidRequest; see `read_audio`."""
    array = as_array("audio", samples)
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS):
        raise InvalidRequest(
            f"audio: expected samples of shape (frames,) or (frames, 1 to {MAX_CHANNELS} channels), "
            f"got {array.shape}"
        )
    if array.shape[0] == 0:
        raise InvalidRequest("audio: expected at least one sample, got none")
    if array.dtype.name in INTEGER_SCALES:
        scale, zero = INTEGER_SCALES[array.dtype.name]
        array = (array.astype(np.float64) - zero) / scale
    elif array.dtype.kind != "f":
        raise InvalidRequest(
            f"audio: expected samples in floating point, {', '.join(INTEGER_SCALES)}, got {array.dtype}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mono = array if array.ndim == 1 else array.mean(axis=1, dtype=np.float64)
        mono = np.ascontiguousarray(mono, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise InvalidRequest("audio: expected finite samples, got NaN or infinity")
    return mono


def check_rate(rate_hz: Any) -> int:
    """A sample rate in Hz as an int, or InvalidRequest."""
    whole = isinstance(rate_hz, (int, np.integer)) and not isinstance(rate_hz, bool)
    if not whole or not 0 < rate_hz <= MAX_RATE_HZ:
        raise InvalidRequest(
            f"audio: expected a rate of 1 to {MAX_RATE_HZ} Hz as an integer, got {rate_hz!r}"
        )
    return int(rate_hz)


def _read_array(source: tuple[Any, ...], limits: InputLimits) -> tuple[AudioArray, int]:
    if len(source) != 2:
        raise InvalidRequest(f"audio: expected (samples, rate_hz), got a tuple of {len(source)}")
    samples, rate_hz = as_array("audio", source[0]), check_rate(source[1])
    if samples.ndim:
        check_duration(samples.shape[0], rate_hz, limits)
    return mono_samples(samples), rate_hz


def _read_file(path: str | os.PathLike[str], limits: InputLimits) -> bytes:
    file = Path(path)
    try:
        if not file.is_file():
            raise InvalidRequest(f"audio: no such file: {path}")
        _check_bytes(file.stat().st_size, limits)
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"audio: {path} cannot be read: {error}") from error


def _decode(data: bytes, name: str, limits: InputLimits) -> tuple[AudioArray, int]:
    if not data:
        raise InvalidRequest(f"audio: {name}: expected {FORMATS}, got nothing")
    import soundfile

    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            rate_hz = check_rate(file.samplerate)
            if file.channels > MAX_CHANNELS:
                raise InvalidRequest(f"audio: expected up to {MAX_CHANNELS} channels, got {file.channels}")
            check_duration(file.frames, rate_hz, limits)
            return _decode_blocks(file, name, rate_hz, limits), rate_hz
    except soundfile.LibsndfileError as error:
        raise InvalidRequest(f"audio: {name}: expected {FORMATS}: {error.error_string}") from error
    except soundfile.SoundFileError as error:
        raise InvalidRequest(f"audio: {name}: expected {FORMATS}: {error}") from error


def _decode_blocks(file: SoundFile, name: str, rate_hz: int, limits: InputLimits) -> AudioArray:
    """Block by block: what a header says about the length need not be true, and channels need not be kept."""
    blocks: list[AudioArray] = []
    frames = 0
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        frames += len(block)
        check_duration(frames, rate_hz, limits)
        blocks.append(mono_samples(block))
    if not blocks:
        raise InvalidRequest(f"audio: {name}: expected at least one sample, got none")
    return np.concatenate(blocks)


def check_duration(frames: int, rate_hz: int, limits: InputLimits) -> None:
    """Raises InvalidRequest for more audio than the limits allow."""
    if frames > limits.max_audio_s * rate_hz:
        raise InvalidRequest(
            f"audio: expected at most {limits.max_audio_s:g} s, got {frames / rate_hz:.1f} s"
        )


def _check_bytes(size: int, limits: InputLimits) -> None:
    if size > limits.max_audio_bytes:
        raise InvalidRequest(f"audio: expected at most {limits.max_audio_bytes} bytes, got {size}")
