"""How natural speech sounds, about 1 to 5: DNSMOS where the package `speechmos` is installed, and UTMOS
(arXiv 2204.02152) by a file of its weights as TorchScript, such as utmos_scripted.pt of UTMOS-PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.errors import ConfigError
from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample

__all__ = ["Score", "dnsmos", "scores", "utmos"]

RATE_HZ = 16000
SECONDS = 9.01
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial that brings the network's overall score to the scale of its authors' listeners"""


Score = Callable[[Path], float]
"""Of a sound file"""


def scores(utmos_file: Path | None = None) -> dict[str, Score]:
    """Those that there are, by the keys of their metrics. Raises ConfigError for a file that `utmos` cannot
    take."""
    found: dict[str, Score] = {}
    if find_spec("speechmos") is not None:
        found["dnsmos"] = lambda path: dnsmos(*read_audio(path))
    if utmos_file is not None:
        found["utmos"] = utmos(utmos_file)
    return found


def utmos(file: Path) -> Score:
    """file: TorchScript with a method `score` of float32 (n,) at 16 kHz, from somebody you trust. Raises
    ConfigError for another."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is no other form of it
            model = torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"--utmos: {file}: expected weights as TorchScript: {reason}") from error
    if not hasattr(model, "score"):
        raise ConfigError(f"--utmos: {file}: expected TorchScript with a method `score`, found none")

    def score(path: Path) -> float:
        samples = resample(*read_audio(path), RATE_HZ)
        with torch.inference_mode():
            return float(model.score(torch.from_numpy(np.ascontiguousarray(samples, np.float32))).mean())

    return score


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
