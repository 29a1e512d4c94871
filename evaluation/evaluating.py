"""One task from its cases to its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.engine.engine import Engine
from antiphon.errors import ConfigError
from antiphon.evaluation.answer import Answering
from antiphon.evaluation.cases import Case
from antiphon.evaluation.comparison import write_scores
from antiphon.evaluation.duplex_answers import DuplexAnswers
from antiphon.evaluation.engine_answers import EngineAnswers
from antiphon.evaluation.extras import needed
from antiphon.evaluation.judge import Judge
from antiphon.evaluation.listener import listener_name
from antiphon.evaluation.normalising import english
from antiphon.evaluation.options import LANGUAGES, REPLIES, TASKS, Options
from antiphon.evaluation.page import HEADINGS, write_page
from antiphon.evaluation.report import Report, make_report
from antiphon.evaluation.rubrics import JUDGED_RULES, rubric_of
from antiphon.evaluation.rules import RULES
from antiphon.evaluation.run_folder import RunFolder
from antiphon.evaluation.running import Report as Progress
from antiphon.evaluation.running import Run
from antiphon.evaluation.sound_quality import scores
from antiphon.files.writing import write_whole

__all__ = ["PAGE", "Stages", "answering_of", "check_options", "evaluate"]

PAGE = "report.html"
JSON = "report.json"
NOBODY = "none"


@dataclass(frozen=True)
class Stages:
    """What is done with the answers."""

    listener: str | None = None
    """See `listener.listener_name`; "none": speech is not listened to"""
    judge: Judge | None = None
    utmos: Path | None = None
    """See `sound_quality.utmos`"""
    timed: int = 0
    """Cases that are timed alone"""


def check_options(options: Options, *, has_judge: bool) -> None:
    """Raises ConfigError for options that there are not, for packages that are missing, and for a rule whose
    judge is missing: before anything is computed."""
    for name, value, choices in (
        ("task", options.task, TASKS),
        ("--reply", options.reply, REPLIES),
        ("--ask", options.ask, REPLIES),
        ("--language", options.language, LANGUAGES),
        ("--rule", options.rule, (*RULES, *JUDGED_RULES)),
    ):
        if value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    if options.task == "vqa" and options.rule in JUDGED_RULES and not has_judge:
        raise ConfigError(
            f"--rule {options.rule}: is scored by a language model: expected --judge with its address, such "
            f"as http://127.0.0.1:8001/v1"
        )
    if options.task in ("asr", "tts"):
        needed("jiwer", options.task)
        if options.language == "en":
            english()


def answering_of(engine: Engine, options: Options) -> Answering:
    """The model in this process. Raises ConfigError for a model that can neither hear nor speak."""
    if engine.codec is None and options.task != "vqa":
        raise ConfigError(f"{options.task}: needs --codec, by which the model hears and speaks")
    return DuplexAnswers(engine, options) if options.task == "duplex" else EngineAnswers(engine, options)


def evaluate(
    folder: Path,
    cases: Sequence[Case],
    options: Options,
    settings: Mapping[str, Any],
    answering: Answering,
    *,
    engine: Engine | None,
    stages: Stages = Stages(),
    progress: Progress = lambda *_: None,
) -> Report:
    """Make the run of a folder, or what is left of it, and write its report: `report.json`, `report.html` and
    `scores.json`.

    engine: times cases; None behind a server. settings: of the model; see `RunFolder.open`. Raises
    ConfigError.
    """
    check_options(options, has_judge=stages.judge is not None)
    quality = scores(stages.utmos)
    run = Run(RunFolder(folder), cases, options, progress)
    run.folder.open(cases, options, settings)
    run.answer(answering)
    if options.speaks and stages.listener != NOBODY:
        run.listen(listener_name(stages.listener), quality)
    rubric = rubric_of(options)
    if rubric is not None and stages.judge is not None:
        run.judge(stages.judge, rubric)
    if engine is not None and stages.timed and options.task != "duplex":
        run.time(engine, stages.timed)
    report = make_report(cases, options, dict(settings), run.records())
    write_whole(folder / JSON, json.dumps(report.as_json(), ensure_ascii=False, indent=1).encode() + b"\n")
    write_scores(folder, options.task, run.folder.header(), report.scored)
    subtitle = "Antiphon, an evaluation of Stream-Omni beside the paper's figures"
    write_page(folder / PAGE, HEADINGS[options.task], subtitle, [(folder, report)])
    return report
