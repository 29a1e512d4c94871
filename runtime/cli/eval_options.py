"""Options of `antiphon eval`, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import options
from antiphon.cli.inputs import about

if TYPE_CHECKING:
    from antiphon.evaluation.cases import Case
    from antiphon.evaluation.evaluating import Stages as MadeStages
    from antiphon.evaluation.options import Options

__all__ = ["Model", "Source", "Stages", "progress_bar"]

DATA_PANEL, SCORES_PANEL, SERVER_PANEL, TURNS_PANEL = "Data", "Scores", "Server", "Turns (duplex)"

Data = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="The data. Default: some cases for the packaged model."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Of the run; one that was ended goes on. Default: eval-TASK."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first cases.", rich_help_panel=DATA_PANEL)]
ImageFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Of vqa, where pictures lie elsewhere.", rich_help_panel=DATA_PANEL),
]
Answers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Of vqa, right answers by question_id, where the questions have none.",
        rich_help_panel=DATA_PANEL,
    ),
]
SetName = Annotated[
    str | None,
    typer.Option(
        "--set",
        metavar="NAME",
        help="Which set it is, if its files do not say so, such as llama-questions or scienceqa: the paper's "
        "figure is then shown beside.",
        rich_help_panel=DATA_PANEL,
    ),
]
Reply = Annotated[str, typer.Option(metavar="speech|text", help="How spoken questions are answered.")]
Ask = Annotated[
    str, typer.Option(metavar="speech|text", help="How visit asks: by its recordings or its texts.")
]
Language = Annotated[
    str, typer.Option(metavar="en|zh", help="Word errors of English, or character errors of Chinese.")
]
Rule = Annotated[
    str,
    typer.Option(
        metavar="exact|words|number|people|choice|yes-no|mme|mm-vet|llava-bench",
        help="Of vqa: exact (GQA); words, that stand in the reply; number, the reply's last; people, ten "
        "people's answers (VQAv2, TextVQA, VizWiz); choice, a letter (ScienceQA, SEED-Bench, MMBench); "
        "yes-no (POPE); mme, by category; mm-vet and llava-bench, which are judged.",
        rich_help_panel=SCORES_PANEL,
    ),
]
Listener = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|whisper|own|none",
        help="Who hears spoken answers: a Whisper model of faster-whisper; the one that is installed; the "
        "packaged model; nobody. Default: whisper if it is installed, else own.",
        rich_help_panel=SCORES_PANEL,
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="URL",
        help="Of visit, mm-vet and llava-bench: an OpenAI-compatible address, such as "
        "http://127.0.0.1:8001/v1. Its key is taken from OPENAI_API_KEY.",
        rich_help_panel=SCORES_PANEL,
    ),
]
JudgeModel = Annotated[
    str, typer.Option(metavar="NAME", help="The judge's model.", rich_help_panel=SCORES_PANEL)
]
Utmos = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Of spoken answers: UTMOS as TorchScript (utmos_scripted.pt of Blinorot/UTMOS-PyTorch on "
        "Hugging Face), by which they are scored, too.",
        rich_help_panel=SCORES_PANEL,
    ),
]
Timed = Annotated[
    int,
    typer.Option(min=0, help="Cases that are also timed, one by one.", rich_help_panel=SCORES_PANEL),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask a server, such as http://127.0.0.1:8000, in place of a model in this process.",
        rich_help_panel=SERVER_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The server's key. Default: the environment variable ANTIPHON_API_KEY.",
        rich_help_panel=SERVER_PANEL,
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at a time.", rich_help_panel=SERVER_PANEL)]
Detection = Annotated[
    str,
    typer.Option(metavar="server_vad|semantic_vad", help="What ends a turn.", rich_help_panel=TURNS_PANEL),
]
Activity = Annotated[
    str,
    typer.Option(
        metavar="auto|silero|energy", help="What tells speech from noise.", rich_help_panel=TURNS_PANEL
    ),
]
SilenceMs = Annotated[
    int,
    typer.Option(min=0, help="The silence that ends a turn of server_vad.", rich_help_panel=TURNS_PANEL),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1, help="Fusion window, in place of the checkpoint's.", rich_help_panel=options.MODEL_PANEL
    ),
]
Lag = Annotated[
    int | None,
    typer.Option(
        min=1, help="Fusion lag, in place of the checkpoint's.", rich_help_panel=options.MODEL_PANEL
    ),
]
FirstUnits = Annotated[
    int | None,
    typer.Option(min=4, help="Units before the first chunk of speech.", rich_help_panel=options.MODEL_PANEL),
]


@dataclass(frozen=True)
class Model:
    """The model in this process."""

    model: Path | None = None
    codec: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    codec_dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    vocoder_backend: str = "torch"
    window: int | None = None
    lag: int | None = None
    first_units: int | None = None

    def record(self) -> dict[str, Any]:
        """As a run's folder keeps it."""
        folders = {
            name: None if path is None else str(path.resolve())
            for name, path in (("model", self.model), ("codec", self.codec))
        }
        return asdict(self) | folders | {"model": folders["model"] or "packaged"}


@dataclass(frozen=True)
class Source:
    """The data; None: what comes with the package."""

    data: Path | None = None
    image_folder: Path | None = None
    answers: Path | None = None
    set_name: str | None = None
    limit: int | None = None

    def cases(self, asked: Options, folder: Path) -> list[Case]:
        """Raises ConfigError, which says what is expected."""
        from antiphon.evaluation.layouts import read_cases
        from antiphon.evaluation.packaged import packaged_cases

        if self.data is None:
            try:
                return packaged_cases(asked.task, folder)[: self.limit]
            except OSError as error:
                raise typer.BadParameter(about(folder, error), param_hint="--out") from error
        return read_cases(
            asked.task,
            self.data,
            image_folder=self.image_folder,
            answers=self.answers,
            set_name=self.set_name,
            rule=asked.rule,
            limit=self.limit,
        )


@dataclass(frozen=True)
class Stages:
    listener: str | None
    judge: str | None
    judge_model: str
    timed: int
    utmos: Path | None = None

    def made(self) -> MadeStages:
        """Raises ConfigError where the judge's client is not installed."""
        from antiphon.evaluation.evaluating import Stages as MadeStages
        from antiphon.evaluation.judge import Judge

        judge = None
        if self.judge is not None:
            judge = Judge(self.judge, self.judge_model, os.environ.get("OPENAI_API_KEY"))
        return MadeStages(self.listener, judge, self.utmos, self.timed)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """On stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting")

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
