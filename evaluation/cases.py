"""What is evaluated: one case after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Case", "fingerprint"]


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


def fingerprint(cases: Sequence[Case]) -> str:
    """Of what is asked and expected. Files count by their names and sizes, wherever they lie."""
    digest = hashlib.sha256()
    for case in cases:
        told = asdict(case)
        for name in ("audio", "image"):
            path: Path | None = told[name]
            told[name] = None if path is None else [path.name, path.stat().st_size]
        digest.update(json.dumps(told, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]
