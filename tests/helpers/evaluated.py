"""Cases of an evaluation, and what a run would have written down of them."""

from __future__ import annotations

from typing import Any

from antiphon.evaluation.cases import Case

__all__ = ["answered", "asked"]


def asked(case_id: str, group: str = "set", **fields: Any) -> Case:
    return Case(case_id, group, **fields)


def answered(**fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Lines of `answers.jsonl` by the ids of their cases."""
    empty = {"text": "", "transcript": "", "error": None, "audio": None}
    return {case_id: empty | given for case_id, given in fields.items()}
