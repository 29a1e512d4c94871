"""DNSMOS, where the package `speechmos` is installed: how natural speech sounds, about 1 to 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample

__all__ = ["dnsmos", "quality"]

RATE_HZ = 16000
SECONDS = 9.01
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial that brings the network's overall score to the scale of its authors' listeners"""


def quality() -> Callable[[Path], float] | None:
    """Of a sound file; None: not installed."""
    return None if find_spec("speechmos") is None else lambda path: dnsmos(*read_audio(path))


def dnsmos(samples: Any, rate_hz: int) -> float:
    """The overall score of float32 (n,); short ones are repeated, as its authors do."""
    samples = resample(samples, rate_hz, RATE_HZ)
    wanted = int(SECONDS * RATE_HZ)
    while 0 < len(samples) < wanted:
        samples = np.concatenate([samples, samples])
    scores = []
    for start in range(0, len(samples) - wanted + 1, RATE_HZ):
        piece = np.clip(samples[start : start + wanted], -1, 1).astype(np.float32)[None]
        scores.append(_network().run(None, {"input_1": piece})[0][0][2])
    return float(np.polyval(OVERALL, np.array(scores)).mean())


@cache
def _network() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # By its path: importing the package asks for librosa, which this score does without.
    path = files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
