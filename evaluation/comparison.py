"""What changed between two runs over the same cases, and whether chance alone could have done it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from antiphon.errors import ConfigError
from antiphon.evaluation.bootstrap import difference
from antiphon.evaluation.report import ALL
from antiphon.evaluation.scoring import METRICS
from antiphon.files.writing import write_whole

__all__ = ["Compared", "FigureChange", "compare", "write_scores"]

SCORES = "scores.json"


@dataclass(frozen=True)
class FigureChange:
    group: str
    key: str
    label: str
    first: float
    second: float
    value: float
    """`second` less `first`, in the figure's unit, with `low` and `high`, its interval of 95 %"""
    low: float
    high: float
    p: float
    """By drawing the cases again, those of both runs together"""
    num_cases: int


@dataclass(frozen=True)
class Compared:
    task: str
    num_common: int
    figures: list[FigureChange]
    changed: list[dict[str, Any]]
    """Cases that were answered differently: what each run answered"""
    settings: dict[str, tuple[Any, Any]]
    """In which the two runs differ"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def write_scores(folder: Path, task: str, header: dict[str, Any], scored: Sequence[Any]) -> None:
    """What `compare` reads of a run: each case's counts and answer."""
    cases = {
        each.case.case_id: {
            "group": each.case.group,
            "counts": each.counts,
            "text": each.text,
            "heard": each.heard,
            "error": each.error,
        }
        for each in scored
    }
    told = {"task": task, "header": header, "cases": cases}
    write_whole(folder / SCORES, json.dumps(told, ensure_ascii=False, indent=0).encode() + b"\n")


def compare(first: Path, second: Path) -> Compared:
    """Raises ConfigError for folders without a finished run, of two tasks, or with no case in common."""
    one, other = _read(first), _read(second)
    if one["task"] != other["task"]:
        raise ConfigError(f"expected two runs of one task, got {one['task']} and {other['task']}")
    common = [case_id for case_id in one["cases"] if case_id in other["cases"]]
    if not common:
        raise ConfigError(f"{first} and {second} have no case in common")
    pairs = [(one["cases"][case_id], other["cases"][case_id]) for case_id in common]
    groups = list(dict.fromkeys(case["group"] for case, _ in pairs))
    figures = []
    for group in [*groups, *([ALL] if len(groups) > 1 else [])]:
        own = [pair for pair in pairs if group in (pair[0]["group"], ALL)]
        for metric in METRICS[one["task"]]:
            counts = [tuple(case["counts"].get(metric.key) for case in pair) for pair in own]
            both = [pair for pair in counts if None not in pair]
            if both:
                figures.append(_change(group, metric, both))
    changed = [
        {"id": case_id, "first": _answer(a), "second": _answer(b)}
        for case_id, (a, b) in zip(common, pairs, strict=True)
        if _answer(a) != _answer(b)
    ]
    return Compared(one["task"], len(common), figures, changed, _settings(one["header"], other["header"]))


def _change(group: str, metric: Any, both: Sequence[tuple[Any, Any]]) -> FigureChange:
    firsts, seconds = [a for a, _ in both], [b for _, b in both]
    found, scale = difference(firsts, seconds), metric.scale
    first, second = (scale * _ratio(pairs) for pairs in (firsts, seconds))
    values = (scale * found.value, scale * found.low, scale * found.high)
    return FigureChange(group, metric.key, metric.label, first, second, *values, found.p, len(both))


def _ratio(pairs: Sequence[Sequence[float]]) -> float:
    whole = math.fsum(pair[1] for pair in pairs)
    return math.fsum(pair[0] for pair in pairs) / whole if whole else math.nan


def _answer(case: dict[str, Any]) -> str:
    return case["error"] or (f"{case['text']} [{case['heard']}]" if case["heard"] else case["text"])


def _settings(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat = [{**each["options"], **each["settings"]} for each in (first, second)]
    names = sorted({*flat[0], *flat[1]})
    return {
        name: (flat[0].get(name), flat[1].get(name))
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SCORES
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"task", "header", "cases"} <= set(found):
            raise ValueError("expected the fields task, header and cases")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder}: expected the folder of a finished run, with {SCORES}: {error}"
        ) from error
    return dict(found)
