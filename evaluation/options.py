"""What a run asks for. Two runs with the same options over the same cases give the same answers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LANGUAGES", "REPLIES", "SPOKEN_TASKS", "TASKS", "Options"]

TASKS = ("asr", "spoken-qa", "visit", "vqa", "tts", "duplex")
SPOKEN_TASKS = frozenset({"spoken-qa", "visit"})
"""Whose replies may be speech"""
REPLIES = ("speech", "text")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Options:
    task: str
    """One of `TASKS`"""
    reply: str = "speech"
    """How spoken questions are answered: "speech" (whose text is scored, too) or "text" """
    ask: str = "speech"
    """How `visit` asks: "speech", or "text" for the typed instruction"""
    language: str = "en"
    """What word errors are counted in: words of English, characters of Chinese"""
    rule: str = "exact"
    """How answers of `vqa` are compared: see `evaluation/rules.py`"""
    max_tokens: int | None = None
    max_units: int = 1500
    voice: str | None = None
    detection: str = "server_vad"
    """Of `duplex`: what ends a turn"""
    activity: str = "auto"
    """Of `duplex`: what tells speech from silence"""
    silence_ms: int = 500

    @property
    def speaks(self) -> bool:
        """Whether answers are speech"""
        return self.task == "tts" or (self.task in SPOKEN_TASKS and self.reply == "speech")
