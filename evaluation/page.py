"""The page of one run or of several: figures, and cases with players. It loads nothing from elsewhere."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.evaluation.options import SPOKEN_TASKS
from antiphon.evaluation.report import Figure, Report
from antiphon.evaluation.run_folder import SLUG
from antiphon.evaluation.scoring import METRICS, Metric, Scored
from antiphon.files.writing import write_whole

__all__ = ["HEADINGS", "write_page"]

HEADINGS = {
    "asr": "Recognition",
    "spoken-qa": "Spoken questions",
    "visit": "Pictures and spoken questions",
    "vqa": "Pictures and typed questions",
    "tts": "Text to speech",
    "duplex": "Where turns end",
}
TEMPLATE = Path(__file__).parent / "page.html"
SHOWN = "shown"
MOST_FAILURES = 30
"""Of those that the page shows; the report has all."""
USUAL = (None, "auto", "torch")
"""Settings that are not worth a word"""


@dataclass(frozen=True)
class _Shown:
    """A case on the page. Paths are relative to it."""

    scored: Scored
    told: str
    texts: list[tuple[str, str]]
    image: str | None
    input: str | None
    output: str | None


def write_page(path: Path, title: str, subtitle: str, runs: Sequence[tuple[Path, Report]]) -> None:
    """runs: their folders, in or below the page's own. Recordings and pictures of the cases that are shown
    are copied into a folder `shown` of each run, so that its folder can be given away."""
    import jinja2  # of torch, too

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    told = [_section(path.parent, folder, report) for folder, report in runs]
    page = template.render(title=title, subtitle=subtitle, reports=told)
    write_whole(path, page.encode())


def _section(here: Path, folder: Path, report: Report) -> dict[str, Any]:
    lists = [
        ("Failed", report.failures[:MOST_FAILURES]),
        ("Worst", report.worst),
        ("Drawn at random", report.random),
    ]
    settings = {name: value for name, value in report.settings.items() if value not in USUAL}
    return {
        "report": report,
        "heading": HEADINGS[report.task],
        "settings": list(settings.items()),
        "bars": [_bar(figure) for figure in report.figures],
        "cases": [
            (name, [_shown(here, folder, report.task, each) for each in found]) for name, found in lists
        ],
    }


def _bar(figure: Figure) -> dict[str, float | None] | None:
    """Where values lie on a scale from 0 to 100 %, or from 1 to 5; None for units without an end."""
    first, last = {"%": (0.0, 100.0), "1–5": (1.0, 5.0)}.get(figure.unit, (0.0, 0.0))
    if first == last or not math.isfinite(figure.low):
        return None

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - first) / (last - first))), 1)

    paper = None if figure.paper is None else place(figure.paper.value)
    return {
        "low": place(figure.low),
        "high": place(figure.high),
        "value": place(figure.value),
        "paper": paper,
    }


def _shown(here: Path, folder: Path, task: str, scored: Scored) -> _Shown:
    case = scored.case
    texts = [
        ("before", " / ".join(turn.text for turn in case.turns)),
        ("asked" if task != "tts" else "text", case.text),
        ("understood", scored.transcript if task in SPOKEN_TASKS else ""),
        ("expected", " / ".join(dict.fromkeys(case.references))),
        ("heard" if task == "asr" else "answer", "" if task == "tts" else scored.text),
        ("heard as", scored.heard),
    ]
    if task == "duplex":
        turns = f"ended at {scored.text}" if scored.text else "none ended"
        texts = [("last word", f"ends at {case.speech_end_s:.2f} s"), ("turns", turns)]
    output = None if scored.audio is None else folder / scored.audio
    paths = [_copied(folder, case.image), _copied(folder, case.audio), output]
    image, sound, reply = (None if each is None else each.relative_to(here).as_posix() for each in paths)
    return _Shown(
        scored, _counts(task, scored), [(name, text) for name, text in texts if text], image, sound, reply
    )


def _copied(folder: Path, source: Path | None) -> Path | None:
    if source is None:
        return None
    name = SLUG.sub("-", str(source.parent.name)) + "-" + source.name
    target = folder / SHOWN / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    return target


def _counts(task: str, scored: Scored) -> str:
    """A case's first figure, or both of a spoken answer."""
    found = [metric for metric in METRICS[task] if metric.key in scored.counts]
    both = [metric for metric in found if metric.key in ("text", "speech")]
    return ", ".join(_count(metric, scored) for metric in both or found[:1])


def _count(metric: Metric, scored: Scored) -> str:
    part, whole = scored.counts[metric.key]
    name = {"text": "text ", "speech": "speech "}.get(metric.key, "")
    if metric.unit != "%":
        return f"{name}{part / whole:g} {'of 5' if metric.unit == '1–5' else metric.unit}" if whole else ""
    if metric.less_is_better and metric.key not in ("cut", "missed"):
        return f"{name}{part:.0f} of {whole:.0f} wrong"
    return name + ("right" if (part == whole) != metric.less_is_better else "wrong")
