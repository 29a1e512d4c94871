"""`antiphon bench formats`: what weights in fewer bits save, and how far replies stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from antiphon.bench.loss import Replied, Tap, names_of, perplexity, replies, tapped
from antiphon.bench.options import JsonFile, check_output, record_of, write_record
from antiphon.bench.serving.questions import WORKLOAD, read_workload
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError
from antiphon.model.schemes import BITSANDBYTES, BITSANDBYTES_4BIT, SCHEMES
from antiphon.types import Completion, Request

__all__ = [
    "FORMATS",
    "FormatRun",
    "compare",
    "installed_formats",
    "matrix_losses",
    "questions",
    "read_formats",
    "run",
]

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "float32", "quantization": "int8"},
    "int8-weight-only": {"dtype": "float32", "quantization": "int8-weight-only"},
    "kv-int8": {"dtype": "float32", "kv_cache_dtype": "int8"},
    BITSANDBYTES.name: {"dtype": "float32", "quantization": BITSANDBYTES.name},
    BITSANDBYTES_4BIT.name: {"dtype": "float32", "quantization": BITSANDBYTES_4BIT.name},
}
"""Settings of an engine, by what the table calls them."""
BATCH = 16


def installed_formats() -> list[str]:
    """The names of `FORMATS` that need no library, or one that is installed."""
    schemes = {name: SCHEMES.get(settings.get("quantization", "")) for name, settings in FORMATS.items()}
    libraries = {name: scheme.library for name, scheme in schemes.items() if scheme is not None}
    return [name for name in FORMATS if (library := libraries.get(name)) is None or find_spec(library)]


def read_formats(names: str) -> dict[str, dict[str, Any]]:
    """Some of `FORMATS`, by their names between commas. Raises typer.BadParameter for another name."""
    chosen = names.split(",")
    if not set(chosen) <= FORMATS.keys():
        unknown = ", ".join(name for name in chosen if name not in FORMATS)
        raise typer.BadParameter(f"--formats: expected some of {', '.join(FORMATS)}, got {unknown}")
    return {name: FORMATS[name] for name in chosen}


@dataclass(frozen=True)
class FormatRun:
    """The replies of one format beside those of float32."""

    name: str
    weight_mb: float
    """Of the layers and heads, which each step reads; in MiB."""
    num_questions: int
    same_transcripts: int
    same_texts: int
    same_units: int
    """Of those with the same text: replies whose units are all the same."""
    same_lengths: int
    """Of those with the same text: replies of the same number of units."""
    perplexity: float
    """Of float32's replies to the typed questions."""


@dataclass(frozen=True)
class MatrixLoss:
    """Signal to noise of one matrix's products, on the model's own activations, beside float32."""

    name: str
    int8_db: float
    weight_only_db: float


def questions(num_pictures: int) -> list[Request]:
    """Each of the workload's questions, spoken and typed, about each of `num_pictures` pictures."""
    asked = [question for question in read_workload() if question.picture is None]
    asked += [replace(question, picture=None) for question in read_workload() if question.picture is not None]
    pictures = [path.read_bytes() for path in sorted(WORKLOAD.glob("*.png"))[:num_pictures]]
    shown = [replace(question, picture=picture) for question in asked for picture in pictures]
    return [question.request() for question in (*asked, *shown)]


def typed(requests: Sequence[Request]) -> list[Request]:
    """Those of nothing but text, to be answered by text alone."""
    return [
        replace(request, modalities=("text",), sampling_params=None)
        for request in requests
        if isinstance(request.content, list) and all(isinstance(part, str) for part in request.content)
    ]


def answers(engine: Engine, requests: Sequence[Request], name: str) -> list[Completion]:
    """Completions in the order of the requests. Speech itself is not made."""
    silent = [replace(request, modalities=("text", "units")) for request in requests]
    batches = [silent[begin : begin + BATCH] for begin in range(0, len(silent), BATCH)]
    made = [done for batch in track(batches, name, transient=True) for done in engine.generate(batch)]
    for done in made:
        if done.error is not None:
            raise RuntimeError(f"a request failed: {done.error}")
    return made


def compare(
    name: str,
    num_bytes: int,
    expected: Sequence[Completion],
    found: Sequence[Completion],
    perplexity: float,
) -> FormatRun:
    """expected: the replies in float32. num_bytes: what a step reads."""
    pairs = list(zip(expected, found, strict=True))
    said = [(one, other) for one, other in pairs if one.text == other.text]
    return FormatRun(
        name=name,
        weight_mb=num_bytes / 2**20,
        num_questions=len(pairs),
        same_transcripts=sum(one.transcript == other.transcript for one, other in pairs),
        same_texts=len(said),
        same_units=sum(one.units == other.units for one, other in said),
        same_lengths=sum(len(one.units) == len(other.units) for one, other in said),
        perplexity=perplexity,
    )


def run(
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder; the packaged one.")] = None,
    codec: Annotated[Path | None, typer.Option(help="The packaged one if not given.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Pictures that each question is asked about.")] = 3,
    matrices: Annotated[bool, typer.Option(help="Also each matrix's own loss in int8.")] = False,
    json_out: JsonFile = None,
) -> None:
    """Memory of the weights on a CPU, and how near to float32 they are: replies, perplexity, matrices."""
    check_output(json_out, "--json")
    requests = questions(pictures)
    expected: list[Completion] = []
    texts: list[Replied] = []
    runs, losses = [], list[MatrixLoss]()
    try:
        for name in installed_formats():
            settings = FORMATS[name]
            with Engine(model, codec=codec, device="cpu", **settings) as engine:
                found = answers(engine, requests, name)
                expected = expected or found
                num_bytes = sum(engine.model.num_bytes_read().values())
                texts = texts or replies(engine, typed(requests))
                runs.append(compare(name, num_bytes, expected, found, perplexity(engine, texts)))
        if matrices:
            with tapped() as taps, Engine(model, codec=codec, device="cpu", dtype="float32") as engine:
                answers(engine, requests, "matrices")
                losses = matrix_losses(names_of(engine.model_config), taps)
    except AntiphonError as error:
        raise typer.BadParameter(str(error)) from error
    title = f"{len(requests)} questions, beside float32, {cpu_name()}"
    Console().print(_table(title, runs))
    if losses:
        Console().print(_loss_table(losses))
    if json_out is not None:
        command = f"antiphon bench formats --pictures {pictures}{' --matrices' if matrices else ''}"
        found_losses = {"matrices": [asdict(each) for each in losses]} if losses else {}
        record = record_of(title, command, runs=[asdict(each) for each in runs], **found_losses)
        write_record(json_out, record)


def matrix_losses(names: Sequence[str], taps: Sequence[Tap]) -> list[MatrixLoss]:
    """Those that were used."""
    pairs = zip(names, taps, strict=True)
    return [MatrixLoss(name, *tap.decibels()) for name, tap in pairs if tap.signal > 0]


def _loss_table(losses: Sequence[MatrixLoss]) -> Table:
    table = Table("matrix", "int8", "weights only", title="Signal to noise of products, dB")
    for loss in losses:
        table.add_row(loss.name, f"{loss.int8_db:.1f}", f"{loss.weight_only_db:.1f}")
    return table


def _table(title: str, runs: Sequence[FormatRun]) -> Table:
    table = Table(
        Column("weights", no_wrap=True),
        "MiB",
        "transcripts",
        "texts",
        "units",
        "lengths",
        Column("perplexity", no_wrap=True),
        title=title,
        caption="MiB: what a step reads; then how many are the same, units and lengths where the text is",
    )
    for each in runs:
        table.add_row(
            each.name,
            f"{each.weight_mb:.1f}",
            *(
                f"{100 * part / each.num_questions:.1f} %"
                for part in (each.same_transcripts, each.same_texts)
            ),
            *(
                f"{100 * part / max(1, each.same_texts):.1f} %"
                for part in (each.same_units, each.same_lengths)
            ),
            f"{each.perplexity:.5f}",
        )
    return table
