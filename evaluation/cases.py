"""What is evaluated: one case after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Case", "Turn", "fingerprint"]


@dataclass(frozen=True)
class Turn:
    """What a user said before the question of a case."""

    audio: Path | None = None
    image: Path | None = None
    text: str = ""
    """What was typed, or the words of a recording"""
    reply: str | None = None
    """What was answered; None: the model is asked, and what it answers is taken"""


@dataclass(frozen=True)
class Case:
    """One recording, question or text. What a task does not use is empty."""

    case_id: str
    """Its own among the cases of a run"""
    group: str
    """The part of the data that it belongs to, such as "test-clean"; figures are given for each."""
    audio: Path | None = None
    image: Path | None = None
    text: str = ""
    """A typed question, the words of a spoken one, or what is to be said"""
    references: tuple[str, ...] = ()
    """Right answers, of which one is enough; of a recording, what is said in it"""
    caption: str = ""
    """What the picture shows, for a judge that does not see it"""
    speech_end_s: float | None = None
    """Where the last word of a recording ends"""
    rule: str = ""
    """One of `RULES`, by which its answer is compared; empty: the run's"""
    turns: tuple[Turn, ...] = ()
    """Of a dialogue, what comes before its last question, which is what the other fields are about"""


def fingerprint(cases: Sequence[Case]) -> str:
    """Of what is asked and expected. Files count by their names and sizes, wherever they lie."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps(asdict(case), sort_keys=True, default=_file).encode() + b"\n")
    return digest.hexdigest()[:16]


def _file(path: Any) -> list[Any]:
    return [path.name, path.stat().st_size]
