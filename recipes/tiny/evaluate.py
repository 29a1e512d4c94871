"""Examines the embedded model: what it hears, whether its answers are right, how it speaks, how soon.

    python recipes/tiny/evaluate.py                    # the packaged one
    python recipes/tiny/evaluate.py --model build/tiny/stream_omni --codec build/tiny/codec

Everything asked is held out. The spoken questions are those of the stage "speech-data" (`--work`). Each part
is left as a run of `antiphon eval` in its folder `reports`, with a page of its worst answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from antiphon_tiny.examination import NUM_SPOKEN, examine, show


def main(
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder. Default: the packaged one.")] = None,
    codec: Annotated[Path | None, typer.Option(help="Its codec folder.")] = None,
    work: Annotated[Path, typer.Option(help="The folder in which the stages worked.")] = Path("build/tiny"),
    num: Annotated[int, typer.Option(min=1, help="Number of questions of each kind.")] = NUM_SPOKEN,
    write: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Ask, listen, and compare with the bars to be met."""
    figures = examine(model, codec, work, num=num)
    Console().print(show(figures))
    if write is not None:
        write.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
