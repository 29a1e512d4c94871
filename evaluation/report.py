"""What a run has come to: figures with their intervals beside the paper's, and the cases worth a look."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from antiphon.evaluation.bootstrap import interval
from antiphon.evaluation.cases import Case
from antiphon.evaluation.normalising import has_normaliser
from antiphon.evaluation.options import Options
from antiphon.evaluation.paper import PaperFigure, paper_figure
from antiphon.evaluation.rubrics import JUDGED_RULES
from antiphon.evaluation.scoring import METRICS, Metric, Records, Scored, loss, score_all

__all__ = ["Figure", "Report", "make_report"]

NUM_SHOWN = 10
ALL = "all"


@dataclass(frozen=True)
class Figure:
    """In the unit that its label says."""

    group: str
    """The set, or "all" of several"""
    key: str
    label: str
    unit: str
    value: float
    low: float
    high: float
    num_cases: int
    paper: PaperFigure | None

    @property
    def told(self) -> str:
        unit = {"%": " %", "ms": " ms"}.get(self.unit, "")
        return self._told(self.value) + (unit if math.isfinite(self.value) else "")

    @property
    def told_value(self) -> str:
        """Without its unit"""
        return self._told(self.value)

    @property
    def told_interval(self) -> str:
        return f"{self._told(self.low)} – {self._told(self.high)}"

    @property
    def told_paper(self) -> str:
        """Empty: the paper has no such figure."""
        return "" if self.paper is None else f"{self._told(self.paper.value)} ({self.paper.source})"

    @property
    def told_paper_value(self) -> str:
        return "–" if self.paper is None else self._told(self.paper.value)

    def _told(self, value: float) -> str:
        if not math.isfinite(value):
            return "–"
        return f"{value:.{1 if self.unit in ('%', 'ms', 'points') else 2}f}"


@dataclass(frozen=True)
class Report:
    task: str
    options: Options
    settings: dict[str, Any]
    num_cases: int
    figures: list[Figure]
    failures: list[Scored]
    worst: list[Scored]
    random: list[Scored]
    scored: list[Scored]
    """All of them"""
    notes: list[str]
    """What a reader must know of how it was counted"""

    @property
    def paper_columns(self) -> list[Figure]:
        """The figures that the paper has as well: its columns, of which it and this run are rows."""
        return [figure for figure in self.figures if figure.paper is not None]

    @property
    def paper_source(self) -> str:
        """The paper's tables that these figures are of."""
        tables = dict.fromkeys(figure.paper.source for figure in self.figures if figure.paper is not None)
        return ", ".join(tables)

    def as_json(self) -> dict[str, Any]:
        """Without what differs between two runs that are the same but for their time."""
        figures = []
        for figure in self.figures:
            told = asdict(figure)
            for name in ("value", "low", "high"):
                told[name] = told[name] if math.isfinite(told[name]) else None
            figures.append(told)
        return {
            "task": self.task,
            "options": asdict(self.options),
            "settings": self.settings,
            "num_cases": self.num_cases,
            "num_failed": len(self.failures),
            "figures": figures,
            "failures": [_told(each) for each in self.failures],
            "worst": [_told(each) for each in self.worst],
            "notes": self.notes,
        }


def make_report(
    cases: Sequence[Case], options: Options, settings: dict[str, Any], records: Records
) -> Report:
    scored = score_all(cases, options, records)
    groups = list(dict.fromkeys(case.group for case in cases))
    figures: list[Figure] = []
    for group in [*groups, *([ALL] if len(groups) > 1 else [])]:
        own = [each for each in scored if group in (each.case.group, ALL)]
        for metric in METRICS[options.task]:
            if group == ALL and metric.unit == "points":
                figures += _sum([figure for figure in figures if figure.key == metric.key])
            elif (figure := _figure(metric, group, own, options, settings.get("window"))) is not None:
                figures.append(figure)
    wrong = [each for each in scored if loss(each, options.task) > 0]
    worst = sorted(wrong, key=lambda each: (-loss(each, options.task), -len(each.text)))[:NUM_SHOWN]
    others = [each for each in scored if each not in worst]
    drawn = random.Random(0).sample(others, min(NUM_SHOWN, len(others)))
    return Report(
        options.task,
        options,
        settings,
        len(cases),
        figures,
        [each for each in scored if each.error is not None],
        worst,
        drawn,
        scored,
        _notes(options, records, scored),
    )


def _figure(
    metric: Metric, group: str, scored: Sequence[Scored], options: Options, window: int | None
) -> Figure | None:
    pairs = [each.counts[metric.key] for each in scored if metric.key in each.counts]
    if not pairs:
        return None
    found, scale = interval(pairs), metric.scale
    return Figure(
        group,
        metric.key,
        metric.label,
        metric.unit,
        scale * found.value,
        scale * found.low,
        scale * found.high,
        len(pairs),
        paper_figure(options, group, metric.key, window),
    )


def _sum(parts: Sequence[Figure]) -> list[Figure]:
    """Of points that categories add up to; drawing cases says nothing of their sum."""
    if not parts:
        return []
    value, num = math.fsum(part.value for part in parts), sum(part.num_cases for part in parts)
    return [replace(parts[0], group=ALL, value=value, low=math.nan, high=math.nan, num_cases=num, paper=None)]


def _notes(options: Options, records: Records, scored: Sequence[Scored]) -> list[str]:
    notes = ["Intervals hold 95 % of 1000 draws of the cases with replacement."]
    if options.task == "spoken-qa" and options.language == "en" and not has_normaliser():
        notes.append("Right answers were looked for without Whisper's normaliser, which is not installed.")
    listeners = sorted({str(each["listener"]) for each in records.heard.values()})
    match options.task:
        case "asr":
            if any("time_ms" in each.counts for each in scored):
                notes.append(
                    "Time per utterance is counted as the paper counts it: one recording at a time, from its "
                    "units through the bottom layers, the CTC head and the collapse. The speech tokenizer "
                    "is timed apart; reading the file is not counted. The paper's times are of an A100."
                )
            else:
                notes.append("Times are taken in this process alone (--timed).")
        case "visit":
            if not records.judged:
                notes.append("No scores: no --judge was given.")
            else:
                notes.append("The paper's judge was gpt-4o; scores of another judge do not compare with it.")
        case "vqa" if options.rule in JUDGED_RULES:
            notes.append("Scores of different judges do not compare; the paper does not name its own here.")
    if listeners:
        name = {"own": "the packaged model itself", "whisper": "Whisper tiny.en"}
        heard = ", ".join(name.get(each, each) for each in listeners)
        notes.append(f"Speech was heard by {heard}; the paper's listener was Whisper large-v3.")
    elif options.speaks:
        notes.append("Speech was not listened to.")
    return notes


def _told(scored: Scored) -> dict[str, Any]:
    case = scored.case
    return {
        "id": case.case_id,
        "question": case.text,
        "references": list(case.references),
        "answer": scored.text,
        "heard": scored.heard,
        "error": scored.error,
        "audio": scored.audio,
    }
