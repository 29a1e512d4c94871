"""Sound files of many kinds, made by libsndfile and ffmpeg, with ffmpeg as the judge of their lengths."""

from __future__ import annotations

import io
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

__all__ = ["by_ffmpeg", "by_libsndfile", "judged_seconds", "speechlike"]

JUDGE_RATE_HZ = 16000


def speechlike(num_frames: int, channels: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    """float32 (frames, channels), or (frames,) for one channel: swelling noise, as hard to pack as speech."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (num_frames, channels))
    swell = 0.6 + 0.4 * np.sin(np.arange(num_frames) / 1500)
    samples: np.ndarray[Any, Any] = (noise * swell[:, None]).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


@lru_cache(maxsize=256)
def by_libsndfile(
    kind: str, subtype: str, rate_hz: int = 16000, channels: int = 1, num_frames: int = 16000, seed: int = 0
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, speechlike(num_frames, channels, seed), rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def by_ffmpeg(
    arguments: str,
    rate_hz: int = 16000,
    channels: int = 1,
    num_frames: int = 16000,
    seed: int = 0,
    *,
    to_pipe: bool = False,
) -> bytes:
    """What ffmpeg writes with these arguments, to a file, or to a pipe, where it cannot go back to correct a
    header."""
    samples = speechlike(num_frames, channels, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound"
        command = ["ffmpeg", "-v", "error", "-f", "f32le", "-ar", str(rate_hz), "-ac", str(channels)]
        command += ["-i", "pipe:0", *arguments.split(), "pipe:1" if to_pipe else str(path)]
        done = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
        return done.stdout if to_pipe else path.read_bytes()


def judged_seconds(data: bytes) -> float:
    """How many seconds of sound Debian's ffmpeg decodes from a file; 0.0 if it finds no sound."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = ["ffmpeg", "-v", "quiet", "-i", file.name, "-map", "0:a:0", "-ac", "1"]
        command += ["-ar", str(JUDGE_RATE_HZ), "-f", "s16le", "pipe:1"]
        done = subprocess.run(command, capture_output=True, check=False)
    return len(done.stdout) / 2 / JUDGE_RATE_HZ
