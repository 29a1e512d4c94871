"""What the commands of `antiphon eval` do: engines, runs, and what is shown of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.cli import eval_options, options, signals
from antiphon.cli.streams import say, show_error

if TYPE_CHECKING:
    from antiphon.engine.engine import Engine
    from antiphon.evaluation.options import Options
    from antiphon.evaluation.report import Report

__all__ = ["check", "in_process", "open_engine", "over_http", "print_table", "show"]


@contextmanager
def open_engine(chosen: eval_options.Model, *, quiet: bool = False) -> Iterator[Engine]:
    """Loads the engine; of the packaged checkpoint, says what that can be asked."""
    options.check_codec(chosen.model, chosen.codec)
    with ExitStack() as stack:
        with signals.at_once():
            from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL, EMBEDDED_WORLD
            from antiphon.config import StreamSchedule
            from antiphon.engine.engine import Engine
            from antiphon.evaluation.variant import variant

            is_packaged = chosen.model is None
            folder = EMBEDDED_MODEL if chosen.model is None else chosen.model
            folder = stack.enter_context(variant(folder, window=chosen.window, lag=chosen.lag))
            settings: dict[str, Any] = {"kv_cache_dtype": chosen.kv_cache_dtype}
            if chosen.first_units is not None:
                settings["stream_schedule"] = StreamSchedule(first_units=chosen.first_units)
            engine = Engine(
                folder,
                codec=EMBEDDED_CODEC if is_packaged else chosen.codec,
                device=chosen.device,
                dtype=chosen.dtype,
                codec_dtype=chosen.codec_dtype,
                quantization=chosen.quantization,
                vocoder_backend=chosen.vocoder_backend,
                **settings,
            )
        if is_packaged and not quiet:
            show_error(f"no --model: {EMBEDDED_WORLD}")
        with engine:
            yield engine


def check(asked: Options, source: eval_options.Source, *, has_judge: bool = False) -> None:
    """Before a model is loaded: whether there is all that a run needs."""
    from antiphon.evaluation.evaluating import check_options

    check_options(asked, has_judge=has_judge)
    if source.data is not None:
        source.cases(asked, Path())


def in_process(
    folder: Path,
    source: eval_options.Source,
    asked: Options,
    stages: eval_options.Stages,
    chosen: eval_options.Model,
    engine: Engine,
) -> Report:
    from antiphon.evaluation.evaluating import answering_of, evaluate

    cases, made = source.cases(asked, folder), stages.made()
    with eval_options.progress_bar() as progress:
        return evaluate(
            folder,
            cases,
            asked,
            chosen.record(),
            answering_of(engine, asked),
            engine=engine,
            stages=made,
            progress=progress,
        )


def over_http(
    folder: Path,
    source: eval_options.Source,
    asked: Options,
    stages: eval_options.Stages,
    server: str,
    api_key: str | None,
    concurrency: int,
) -> Report:
    from antiphon.evaluation.evaluating import evaluate
    from antiphon.evaluation.server_answers import ServerAnswers

    check(asked, source, has_judge=stages.judge is not None)
    key = api_key or os.environ.get("ANTIPHON_API_KEY")
    answering = ServerAnswers(server, asked, api_key=key, concurrency=concurrency)
    cases, made = source.cases(asked, folder), stages.made()
    with eval_options.progress_bar() as progress:
        settings = {"server": answering.model_name}
        return evaluate(
            folder, cases, asked, settings, answering, engine=None, stages=made, progress=progress
        )


def show(folder: Path, report: Report) -> None:
    from antiphon.evaluation.evaluating import PAGE

    print_table(report)
    for note in report.notes:
        say(note)
    say(str(folder / PAGE))


def print_table(report: Report, name: str = "") -> None:
    from rich.console import Console

    from antiphon.evaluation.tables import paper_table, report_table

    if name:
        say(name)
    if report.paper_columns:
        Console().print(paper_table(report))
    Console().print(report_table(report))
