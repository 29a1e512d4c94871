"""Texts as they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from antiphon.evaluation.extras import needed

__all__ = ["english", "has_normaliser", "plain", "released", "speech_characters"]


def has_normaliser() -> bool:
    """Whether Whisper's normaliser is installed."""
    return find_spec("whisper_normalizer") is not None


@cache
def english() -> Callable[[str], str]:
    """Whisper's normaliser for English: numbers as digits, contractions spelled out, one spelling, no
    fillers. Raises ConfigError where it is not installed."""
    module = needed("whisper_normalizer.english", "Whisper's normaliser")
    normalise: Callable[[str], str] = module.EnglishTextNormalizer()
    return normalise


def released(text: str) -> str:
    """What the released code compares recognition by: upper case, without all but letters, digits, spaces."""
    return " ".join(re.sub(r"[^a-zA-Z0-9 ]", "", text).upper().split())


def plain(text: str) -> str:
    """Lower case, without punctuation and articles, as VQA's and SQuAD's scorers have it."""
    words = re.sub(r"[^\w\s']", " ", text.lower()).replace("'", "").split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})


def speech_characters(text: str) -> str:
    """Letters and digits alone, of full width as of half: what Chinese is compared by."""
    kept = (c for c in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(c)[0] in "LN")
    return "".join(kept)
