"""What fewer bits cost the embedded model: right answers, perplexity and word error beside those in float32.

    python recipes/tiny/compare_formats.py

Everything asked is held out. The spoken questions are spoken by the model itself, in float32.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import soxr
import typer
from rich.console import Console
from rich.table import Column, Table

from antiphon import Engine, Request
from antiphon.bench.formats import FORMATS, installed_formats, read_formats
from antiphon.bench.loss import Replied, perplexity, replies
from antiphon.bench.options import record_of, write_record
from antiphon.device.machine import cpu_name
from antiphon_tiny.omni.evaluation import evaluate_typed, request_of
from antiphon_tiny.omni.spoken_evaluation import RATE_HZ, SpokenQuestion, evaluate_spoken
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.samples import draw_sample, draw_samples

AT_A_TIME = 16
SEED = 100
"""Of the typed questions"""


@dataclass(frozen=True)
class Measured:
    """In per cent, but for the perplexity."""

    name: str
    typed_about_pictures: float
    typed_otherwise: float
    spoken_about_pictures: float
    spoken_otherwise: float
    word_error: float
    """Of the transcripts of spoken questions"""
    perplexity: float
    """Of the right answers to typed questions without a picture, given these"""


def main(
    num: Annotated[int, typer.Option(min=1, help="Number of questions of each kind.")] = 200,
    formats: Annotated[
        str | None,
        typer.Option(help=f"Some of {', '.join(FORMATS)}, separated by commas; those that are installed."),
    ] = None,
    write: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Ask each format the same questions."""
    names = ",".join(installed_formats()) if formats is None else formats
    chosen = read_formats(names)
    with Engine(dtype="float32") as engine:
        questions, answers = spoken(engine, num), right_answers(engine, num)
    measured = [measure(name, questions, answers, num) for name in chosen]
    Console().print(table_of(measured))
    if write is not None:
        title = f"Per cent of {num} questions of each kind, {cpu_name()}"
        command = f"python recipes/tiny/compare_formats.py --num {num} --formats {names}"
        write_record(write, record_of(title, command, runs=[asdict(one) for one in measured]))


def table_of(measured: Sequence[Measured]) -> Table:
    names = ("typed, pictures", "typed, others", "spoken, pictures", "spoken, others", "word error")
    table = Table(Column("per cent", no_wrap=True), *names, Column("perplexity", no_wrap=True))
    for one in measured:
        *shares, surprise = [value for value in asdict(one).values() if not isinstance(value, str)]
        table.add_row(one.name, *(f"{share:.1f}" for share in shares), f"{surprise:.5f}")
    return table


def spoken(engine: Engine, num: int) -> list[SpokenQuestion]:
    """Different questions of one turn."""
    rng, samples = random.Random(0), dict[str, Sample]()
    while len(samples) < num:
        sample = draw_sample(rng, "held_out", max_turns=1)
        samples.setdefault(sample.turns[0].question, sample)
    texts, found = list(samples), []
    for begin in range(0, num, AT_A_TIME):
        said = texts[begin : begin + AT_A_TIME]
        requests = [Request(say=text, modalities=("text", "audio")) for text in said]
        for text, done in zip(said, engine.generate(requests), strict=True):
            assert done.audio is not None and done.sample_rate_hz is not None
            sound = soxr.resample(done.audio, done.sample_rate_hz, RATE_HZ)
            found.append(SpokenQuestion(samples[text], sound))
    return found


def right_answers(engine: Engine, num: int) -> list[Replied]:
    """Each typed question without a picture, with its right answer instead of the engine's, which must end"""
    found = []
    for sample in draw_samples(num, "held_out", SEED, pictures=0.0):
        [reply] = replies(engine, [request_of(sample)])
        prompt, end = reply.ids[: reply.num_prompt], reply.ids[-1]
        found.append(Replied([*prompt, *engine.tokenizer.encode(sample.answer), end], reply.num_prompt))
    return found


def measure(name: str, questions: list[SpokenQuestion], answers: list[Replied], num: int) -> Measured:
    with Engine(**FORMATS[name]) as engine, tempfile.TemporaryDirectory() as folder:
        typed = evaluate_typed(engine, Path(folder), num_samples=num, seed=SEED)
        heard = evaluate_spoken(engine, Path(folder) / "spoken", questions)
        surprise = perplexity(engine, answers)
    return Measured(
        name,
        typed["pictures"],
        typed["talk"],
        heard.right_about_pictures,
        heard.right_otherwise,
        heard.transcript_word_error,
        surprise,
    )


if __name__ == "__main__":
    typer.run(main)
