"""Writes speech to wav, flac and ogg files, through libsndfile."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.files.writing import is_special, write_whole
from antiphon.sound.arrays import AudioArray, as_array
from antiphon.sound.reading import check_rate

__all__ = ["FORMATS", "encode_audio", "format_of", "write_audio"]

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}
"""libsndfile's names for container and encoding."""
BLOCK_SAMPLES = 1 << 14
"""Samples written at a time: the Vorbis encoder overflows its stack on long blocks."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's name ends with; wav for a pipe or a device without such an ending.

    Raises InvalidRequest for any other.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidRequest(f"audio: expected a path to write to, got {type(path).__name__}")
    ending = Path(path).suffix[1:].lower()
    if not ending and is_special(path):
        return "wav"
    if ending not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise InvalidRequest(f"audio: expected a file name that ends with {known}, got {Path(path).name!r}")
    return ending


def encode_audio(samples: Any, rate_hz: int, audio_format: str = "wav") -> bytes:
    """Floating point (n,), n > 0, clipped to [-1, 1], as the bytes of a file in a format of `FORMATS`.

    Raises InvalidRequest for samples, rates and formats of other kinds.
    """
    samples, rate_hz = _checked(samples), check_rate(rate_hz)
    if audio_format not in FORMATS:
        raise InvalidRequest(f"audio: expected a format among {', '.join(FORMATS)}, got {audio_format!r}")
    import soundfile

    container, encoding = FORMATS[audio_format]
    data = BytesIO()
    try:
        with soundfile.SoundFile(data, "w", rate_hz, 1, encoding, format=container) as file:
            for start in range(0, len(samples), BLOCK_SAMPLES):
                file.write(np.clip(samples[start : start + BLOCK_SAMPLES], -1.0, 1.0))
    except soundfile.SoundFileError as error:
        raise InvalidRequest(f"audio: {audio_format} cannot hold this at {rate_hz} Hz: {error}") from error
    return data.getvalue()


def write_audio(path: str | os.PathLike[str], samples: Any, rate_hz: int) -> None:
    """Writes a file in the format that its name ends with, whole or not at all (`files.write_whole`).

    Raises InvalidRequest for another ending and for what `encode_audio` refuses, and OSError, naming the
    path, if it cannot be written.
    """
    write_whole(path, encode_audio(samples, rate_hz, format_of(path)))


def _checked(samples: Any) -> AudioArray:
    array = as_array("audio", samples)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise InvalidRequest(
            f"audio: expected samples in floating point of shape (n,), got {array.dtype} of {array.shape}"
        )
    if len(array) == 0:
        raise InvalidRequest("audio: expected at least one sample, got none")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InvalidRequest("audio: expected finite samples, got NaN or infinity")
    return array
