"""Reads incoming speech: files, bytes and arrays to mono float32 samples, within limits."""

from __future__ import annotations

import os
import stat
from typing import Any

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.files.reading import read_bounded
from antiphon.sound.arrays import AudioArray
from antiphon.sound.decoding import FORMATS, check_duration, decode
from antiphon.sound.samples import MAX_RATE_HZ, check_rate, mono_samples, num_frames

__all__ = ["FORMATS", "MAX_RATE_HZ", "check_duration", "check_rate", "mono_samples", "read_audio"]

MAX_SHOWN = 200


def read_audio(
    source: Any, limits: InputLimits | None = None, *, before_s: float = 0.0
) -> tuple[AudioArray, int]:
    """Reads speech: a path (of a file or a pipe), the bytes of an audio file, a file that is open for reading
    bytes, or (samples, rate_hz).

    Files are wav, flac, ogg (Vorbis, Opus, FLAC), mp3, aiff, au, caf and w64 and, where PyAV is installed
    (`antiphon[audio]`), webm, mkv, mp4, m4a, mov, 3gp, aac, amr, wma and others that ffmpeg decodes; of a
    film, the sound is read. They are decoded to their end, whatever their headers say about their length.
    `mono_samples` describes arrays.

    Returns float32 (frames,), channels averaged, and the rate in Hz. Raises InvalidRequest for whatever is
    missing, empty, damaged, of another kind, or beyond the limits, which apply while it is decoded.
    before_s: seconds of other recordings that count towards the limit.
    """
    limits = limits or InputLimits()
    if isinstance(source, tuple):
        return _read_array(source, limits, before_s)
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(source))
        return decode(_read_file(path, limits), _shown(path), limits, before_s)
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(memoryview(source).nbytes, limits)
        return decode(bytes(source), "these bytes", limits, before_s)
    if callable(getattr(source, "read", None)):
        return decode(_read_open(source, limits), "this file", limits, before_s)
    raise InvalidRequest(
        f"audio: expected a path, bytes, an open file or (samples, rate_hz), got {type(source).__name__}"
    )


def _read_array(source: tuple[Any, ...], limits: InputLimits, before_s: float) -> tuple[AudioArray, int]:
    if len(source) != 2:
        raise InvalidRequest(f"audio: expected (samples, rate_hz), got a tuple of {len(source)}")
    samples, rate_hz = source[0], check_rate(source[1])
    check_duration(num_frames(samples), rate_hz, limits, before_s)
    mono = mono_samples(samples)
    check_duration(len(mono), rate_hz, limits, before_s)
    return mono, rate_hz


def _read_file(path: str, limits: InputLimits) -> bytes:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would not be what was given
        if stat.S_ISDIR(status.st_mode):
            raise InvalidRequest(f"audio: no such file: {_shown(path)} is a folder")
        if stat.S_ISREG(status.st_mode):
            _check_bytes(status.st_size, limits)
        data = read_bounded(path, limits.max_audio_bytes)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a path that cannot be one
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"audio: no such file: {_shown(path)}") from error
    except OSError as error:
        raise InvalidRequest(f"audio: {_shown(path)} cannot be read: {error.strerror or error}") from error
    _check_bytes(len(data), limits, is_all=False)
    return data


def _read_open(file: Any, limits: InputLimits) -> bytes:
    pieces: list[bytes] = []
    left = limits.max_audio_bytes + 1
    try:
        while left > 0 and (piece := file.read(left)):
            if not isinstance(piece, bytes):
                raise InvalidRequest(
                    f"audio: expected a file open for reading bytes, got one of {type(piece).__name__}"
                )
            pieces.append(piece)
            left -= len(piece)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever somebody's own file raises
        raise InvalidRequest(f"audio: this file cannot be read: {error!s:.{MAX_SHOWN}}") from error
    _check_bytes(limits.max_audio_bytes + 1 - left, limits, is_all=left > 0)
    return b"".join(pieces)


def _check_bytes(size: int, limits: InputLimits, *, is_all: bool = True) -> None:
    if size > limits.max_audio_bytes:
        got = f"{size}" if is_all else "more"
        raise InvalidRequest(f"audio: expected at most {limits.max_audio_bytes} bytes, got {got}")


def _shown(path: str) -> str:
    """A path in a form that can be printed anywhere."""
    return path[:MAX_SHOWN].encode("utf-8", "backslashreplace").decode()
