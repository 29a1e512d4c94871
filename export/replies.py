"""What the packaged model says to typed questions: text, units and sound that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antiphon.assets.embedded import EMBEDDED_CODEC

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CALIBRATION", "SENTENCES", "Reply", "questions_in", "replies"]

SENTENCES = EMBEDDED_CODEC.parent / "sentences.txt"
"""Questions whose replies exports are judged by; the model has not been trained on them."""
CALIBRATION = EMBEDDED_CODEC.parent / "calibration.txt"
"""Others, whose replies int8 is calibrated on."""
AT_A_TIME = 8
MAX_TOKENS, MAX_UNITS = 40, 375


@dataclass(frozen=True, eq=False)
class Reply:
    text: str
    units: list[int]
    sound: np.ndarray[Any, Any]
    """float32 (n,)"""
    rate_hz: int


def questions_in(text: str) -> list[str]:
    """One in each line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def replies(questions: Sequence[str], report: Callable[[int], None] = lambda _: None) -> list[Reply]:
    """report: is told how many are there."""
    from antiphon.engine.engine import Engine
    from antiphon.types import Request, SamplingParams

    params = SamplingParams(max_tokens=MAX_TOKENS, max_units=MAX_UNITS)
    said: list[Reply] = []
    with Engine(device="cpu", progress=False) as engine:
        for start in range(0, len(questions), AT_A_TIME):
            asked = questions[start : start + AT_A_TIME]
            requests = [Request(each, modalities=("text", "audio")) for each in asked]
            for done in engine.generate(requests, params):
                assert done.audio is not None and done.sample_rate_hz is not None, "speech was asked for"
                said.append(Reply(done.text, list(done.units), done.audio, done.sample_rate_hz))
            report(len(said))
    return said
