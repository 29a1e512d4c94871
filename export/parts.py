"""All networks that can be exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antiphon.export.conditions import ENCODER_PART
from antiphon.export.flow import FLOW_PART, SOLVER_PART
from antiphon.export.hift import HIFT_PART
from antiphon.export.listening import LISTENING_PART
from antiphon.export.part import Part
from antiphon.export.tokenizer import TOKENIZER_PART
from antiphon.export.vision import VISION_PART
from antiphon.files.checkpoint import is_there

__all__ = ["PARTS", "part_of", "parts_in"]

PARTS: tuple[Part[Any, Any], ...] = (
    ENCODER_PART,
    FLOW_PART,
    SOLVER_PART,
    HIFT_PART,
    TOKENIZER_PART,
    LISTENING_PART,
    VISION_PART,
)
"""In the order in which they are written: one that is made around another comes after it."""


def part_of(kind: str) -> Part[Any, Any] | None:
    return next((part for part in PARTS if part.kind == kind), None)


def parts_in(folder: Path) -> Iterator[tuple[Part[Any, Any], Path]]:
    """The exported networks in a folder."""
    for part in PARTS:
        for name in part.files:
            if is_there(folder / name):
                yield part, folder / name
