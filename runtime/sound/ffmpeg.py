"""Decodes, by ffmpeg, sound that libsndfile cannot. PyAV brings ffmpeg (`pip install antiphon[audio]`).

ffmpeg reads what browsers and phones record, and is far too much code to expose to a stranger's bytes in this
process. So it runs in a process of its own (`ffmpeg_process.py`), within bounds of time and memory, with one
demuxer, no protocols and only the decoders of sound.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray
from antiphon.sound.samples import MAX_CHANNELS, MAX_RATE_HZ

__all__ = ["decode", "is_there"]

PROGRAM = Path(__file__).with_name("ffmpeg_process.py")
MAX_MEMORY_BYTES = 3 * 2**30
"""Address space, of which libraries take half a gigabyte."""
MAX_S = 60
"""300 s of sound take one or two seconds."""


def is_there() -> bool:
    """Whether PyAV is installed."""
    try:
        return importlib.util.find_spec("av") is not None
    except ValueError:  # in sys.modules, but not from a file
        return False


def decode(data: bytes, demuxer: str, max_audio_s: float) -> list[tuple[AudioArray, int]]:
    """Runs of samples, mono float32 (n,), and the rate of each, which may change within a file.

    demuxer: ffmpeg's name of the container. Decoding ends soon after max_audio_s. Raises InvalidRequest.
    """
    settings = {
        "path": sys.path,
        "demuxer": demuxer,
        "max_audio_s": max_audio_s,
        "max_rate_hz": MAX_RATE_HZ,
        "max_channels": MAX_CHANNELS,
        "max_memory_bytes": MAX_MEMORY_BYTES,
        "max_s": MAX_S,
    }
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        # -I and -S: nothing is imported but from `path`, and nothing is run before the program.
        process = subprocess.run(
            [sys.executable, "-I", "-S", str(PROGRAM), json.dumps(settings)],
            input=data,
            capture_output=True,
            timeout=MAX_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidRequest(f"it takes more than {MAX_S} s to decode") from error
    except OSError as error:
        raise InvalidRequest(f"PyAV's process cannot be started: {error}") from error
    return _parsed(process)


def _parsed(process: subprocess.CompletedProcess[bytes]) -> list[tuple[AudioArray, int]]:
    """Parses what the process wrote: lines of JSON, each followed by the samples that it announces."""
    runs: list[tuple[list[AudioArray], int]] = []
    output = process.stdout
    position, is_whole = 0, False
    while (end := output.find(b"\n", position)) >= 0:
        said = json.loads(output[position:end])
        position = end + 1
        if "error" in said:
            raise InvalidRequest(said["error"])
        if "end" in said:
            is_whole = True
            break
        samples = np.frombuffer(output, np.float32, said["num_samples"], position)
        position += samples.nbytes
        if not runs or runs[-1][1] != said["rate_hz"]:
            runs.append(([], said["rate_hz"]))
        runs[-1][0].append(samples)
    if not is_whole:
        lines = process.stderr.decode(errors="backslashreplace").strip().splitlines()
        reason = lines[-1][:200] if lines else f"exit status {process.returncode}"
        raise InvalidRequest(f"its decoder crashed: {reason}")
    return [(np.concatenate(pieces), rate_hz) for pieces, rate_hz in runs]
