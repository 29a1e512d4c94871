"""Fields that rows of several tasks have."""

from __future__ import annotations

from pathlib import Path

from antiphon.evaluation.cases import Turn
from antiphon.evaluation.rows import Row
from antiphon.evaluation.rules import RULES

__all__ = ["ANSWERS", "AUDIO", "case_id", "image_of", "rule_of", "turns_of"]

AUDIO = ("audio", "wav", "path", "WavPath", "Wav Filename", "audio_filepath")
IMAGE = ("image", "imagename")
ROW_RULES = tuple(name for name in RULES if name != "mme")
"""Those that a row may name; MME's takes two of them together."""
ANSWERS = ("answers", "answer", "Answer", "label", "gt_answer")


def case_id(row: Row, number: int) -> str:
    return row.text("question_id", "id", default=str(number))


def image_of(row: Row, folder: Path) -> Path | None:
    """None: the row has none."""
    if all(row.fields.get(name) is None for name in IMAGE):
        return None
    return Row(row.place, row.fields, folder).file(*IMAGE, beside=("images",))


def rule_of(row: Row) -> str:
    rule = row.text("rule", default="")
    if rule and rule not in ROW_RULES:
        raise row.error(f"rule: expected one of {', '.join(ROW_RULES)}, found {rule!r}")
    return rule


def turns_of(row: Row, folder: Path) -> tuple[Turn, ...]:
    """What comes before the question, in a dialogue."""
    told = row.fields.get("turns")
    if told is None:
        return ()
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise row.error("turns: expected a list of objects with the fields audio or text, image, reply")
    turns = []
    for number, fields in enumerate(told, 1):
        turn = Row(f"{row.place}: turn {number}", fields, row.folder)
        has_audio = any(fields.get(name) is not None for name in AUDIO)
        audio = turn.file(*AUDIO, beside=("audio", "wavs")) if has_audio else None
        text = turn.text("text", "question", default="" if has_audio else None)
        reply = turn.text("reply") if fields.get("reply") is not None else None
        turns.append(Turn(audio, image_of(turn, folder), text, reply))
    return tuple(turns)
