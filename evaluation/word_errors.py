"""Word and character errors, by jiwer."""

from __future__ import annotations

from collections.abc import Callable

from antiphon.evaluation.extras import needed
from antiphon.evaluation.normalising import english, released, speech_characters

__all__ = ["errors", "released_errors"]


def errors(said: str, heard: str, language: str) -> tuple[int, int]:
    """Substitutions, insertions and deletions, and how many there could be: English words after Whisper's
    normaliser, or Chinese characters. Raises ConfigError without the extra."""
    if language == "zh":
        return _counted(" ".join(speech_characters(said)), " ".join(speech_characters(heard)), str)
    return _counted(said, heard, english())


def released_errors(said: str, heard: str) -> tuple[int, int]:
    """The same of words as the released code compares them, which the paper's figures were made by."""
    return _counted(said, heard, released)


def _counted(said: str, heard: str, normalise: Callable[[str], str]) -> tuple[int, int]:
    jiwer = needed("jiwer", "counting word errors")
    wanted, found = normalise(said), normalise(heard)
    if not wanted:  # which jiwer has no answer for
        return len(found.split()), 0
    counts = jiwer.process_words(wanted, found)
    wrong = counts.substitutions + counts.deletions + counts.insertions
    return int(wrong), int(counts.hits + counts.substitutions + counts.deletions)
