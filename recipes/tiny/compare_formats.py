"""What weights in fewer bits cost the embedded model: right answers and word error beside those in float32.

    python recipes/tiny/compare_formats.py

Everything asked is held out. The spoken questions are spoken by the model itself, in float32.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import soxr
import typer
from rich.console import Console
from rich.table import Table

from antiphon import Engine, Request
from antiphon.bench.formats import FORMATS, read_formats
from antiphon.bench.options import record_of, write_record
from antiphon.device.machine import cpu_name
from antiphon_tiny.omni.evaluation import evaluate_typed
from antiphon_tiny.omni.spoken_evaluation import AT_A_TIME, RATE_HZ, SpokenQuestion, ask
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.samples import draw_sample


@dataclass(frozen=True)
class Measured:
    """Per cent."""

    name: str
    typed_about_pictures: float
    typed_otherwise: float
    spoken_about_pictures: float
    spoken_otherwise: float
    word_error: float
    """Of the transcripts of spoken questions"""


def main(
    num: Annotated[int, typer.Option(min=1, help="Number of questions of each kind.")] = 200,
    formats: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(FORMATS),
    write: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Ask each format the same questions."""
    chosen = read_formats(formats)
    with Engine(dtype="float32") as engine:
        questions = spoken(engine, num)
    measured = [measure(name, questions, num) for name in chosen]
    table = Table(
        "per cent", *(field.replace("_", " ") for field in Measured.__dataclass_fields__ if field != "name")
    )
    for one in measured:
        table.add_row(
            *(value if isinstance(value, str) else f"{value:.1f}" for value in asdict(one).values())
        )
    Console().print(table)
    if write is not None:
        title = f"Per cent of {num} questions of each kind, {cpu_name()}"
        command = f"python recipes/tiny/compare_formats.py --num {num} --formats {formats}"
        write_record(write, record_of(title, command, runs=[asdict(one) for one in measured]))


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


def measure(name: str, questions: list[SpokenQuestion], num: int) -> Measured:
    with Engine(**FORMATS[name]) as engine, tempfile.TemporaryDirectory() as folder:
        typed = evaluate_typed(engine, Path(folder) / "typed.json", num_samples=num)
        heard = ask(engine, questions)
    return Measured(
        name,
        typed["pictures"],
        typed["talk"],
        heard.right_about_pictures,
        heard.right_otherwise,
        heard.transcript_word_error,
    )


if __name__ == "__main__":
    typer.run(main)
