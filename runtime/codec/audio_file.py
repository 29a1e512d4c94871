"""Speech that goes out: wav, flac and ogg files, through libsndfile."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np

from antiphon.codec.arrays import AudioArray
from antiphon.errors import InvalidRequest

__all__ = ["FORMATS", "encode_audio", "format_of", "write_audio"]

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}
"""libsndfile's names of container and encoding."""
BLOCK_SAMPLES = 1 << 14
"""Samples handed over at a time: the Vorbis encoder overflows its stack on long ones."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's name ends with. Raises InvalidRequest for any other."""
    ending = Path(path).suffix[1:].lower()
    if ending not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise InvalidRequest(f"audio: expected a file name that ends with {known}, got {Path(path).name!r}")
    return ending


def encode_audio(samples: AudioArray, rate_hz: int, audio_format: str = "wav") -> bytes:
    """float32 (n,), n > 0, clipped to [-1, 1], as the bytes of a file; the format is a key of `FORMATS`."""
    if len(samples) == 0:
        raise InvalidRequest("audio: expected at least one sample, got none")
    if audio_format not in FORMATS:
        raise InvalidRequest(f"audio: expected a format among {', '.join(FORMATS)}, got {audio_format!r}")
    import soundfile

    container, encoding = FORMATS[audio_format]
    data = BytesIO()
    with soundfile.SoundFile(data, "w", rate_hz, 1, encoding, format=container) as file:
        for start in range(0, len(samples), BLOCK_SAMPLES):
            file.write(np.clip(samples[start : start + BLOCK_SAMPLES], -1.0, 1.0))
    return data.getvalue()


def write_audio(path: str | os.PathLike[str], samples: AudioArray, rate_hz: int) -> None:
    """Writes a file in the format that its name ends with.

    Raises InvalidRequest for another ending, OSError, naming the path, where it cannot be written.
    """
    Path(path).write_bytes(encode_audio(samples, rate_hz, format_of(path)))
