"""`antiphon export engine`, and what `--format tensorrt` adds to other commands: engines from ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import signals
from antiphon.cli.streams import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from antiphon.codec.tensorrt.profile import Profile

__all__ = [
    "Batch",
    "MaxFrames",
    "MinFrames",
    "OptFrames",
    "Profiles",
    "Target",
    "build_engines",
    "check_not_given",
    "check_target",
    "chosen_profiles",
    "engine",
]

MB = 1e6
NUM_SHOWN_LINES = 20
PANEL = "Engines of TensorRT"

Target = Annotated[
    str | None,
    typer.Option(
        metavar="SM",
        help="Compute capability of the GPU that it is for: sm80 is an A100. Default: that of this machine.",
        rich_help_panel=PANEL,
    ),
]
MinFrames = Annotated[
    int | None, typer.Option("--min", metavar="FRAMES", help="Least mel frames.", rich_help_panel=PANEL)
]
OptFrames = Annotated[
    int | None,
    typer.Option("--opt", metavar="FRAMES", help="Mel frames to be fastest at.", rich_help_panel=PANEL),
]
MaxFrames = Annotated[
    int | None, typer.Option("--max", metavar="FRAMES", help="Most mel frames.", rich_help_panel=PANEL)
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", metavar="ROWS", help="Most rows: two for each utterance.", rich_help_panel=PANEL),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="FRAMESxROWS",
        help="Frames and rows, each least:usual:most, such as 1:256:320x1:2:32; may be given several times, "
        "instead of --min, --opt, --max and --batch. Default: one for chunks, one for long utterances.",
        rich_help_panel=PANEL,
    ),
]


def engine(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `antiphon export` wrote.")],
    solver: Annotated[
        bool, typer.Option("--solver", help="Of the solver's file, instead of the velocity's.")
    ] = False,
    target: Target = None,
    min_frames: MinFrames = None,
    opt_frames: OptFrames = None,
    max_frames: MaxFrames = None,
    batch: Batch = None,
    profile: Profiles = None,
) -> None:
    """Build an engine of TensorRT from the flow's ONNX file in a folder, unless it is there already."""
    from antiphon.codec.exported import flow_file

    chosen = chosen_profiles(min_frames, opt_frames, max_frames, batch, profile)
    velocity = flow_file(folder)
    build_engines([folder / "solver.onnx" if solver else velocity], target, chosen)


def check_target(target: str | None) -> None:
    """Raises ConfigError if no engine can be built for it here."""
    from antiphon.export.tensorrt.build import builder_for

    builder_for(target)


def check_not_given(**options: object) -> None:
    """Raises ConfigError for options of engines where none is built."""
    from antiphon.errors import ConfigError

    for name, value in options.items():
        if value not in (None, []):
            raise ConfigError(f"--{name}: expected --format tensorrt with it, got onnx")


def chosen_profiles(
    min_frames: int | None,
    opt_frames: int | None,
    max_frames: int | None,
    batch: int | None,
    written: Sequence[str] | None,
) -> Sequence[Profile]:
    """Those that the options ask for. Raises ConfigError."""
    from antiphon.codec.tensorrt.profile import PROFILES, SHORT, Profile, Span
    from antiphon.errors import ConfigError

    sizes = {"--min": min_frames, "--opt": opt_frames, "--max": max_frames, "--batch": batch}
    given = [name for name, size in sizes.items() if size is not None]
    if written:
        if given:
            raise ConfigError(f"{given[0]}: expected either it or --profile, got both")
        return [Profile.parse(each) for each in written]
    if not given:
        return PROFILES
    most = SHORT.frames.most if max_frames is None else max_frames
    usual = min(SHORT.frames.usual, most) if opt_frames is None else opt_frames
    least = SHORT.frames.least if min_frames is None else min_frames
    rows = SHORT.rows.most if batch is None else batch
    return [Profile(Span(least, usual, most), Span(1, min(SHORT.rows.usual, rows), rows))]


def build_engines(paths: Sequence[Path], target: str | None, profiles: Sequence[Profile]) -> None:
    """Builds one from each file, and says what came of it. If a builder fails, the last lines of its log go
    to standard error first."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from antiphon.export.tensorrt.build import BuildFailed, build_engine, builder_for

    with signals.at_once():
        library, name, is_here = builder_for(target)
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        for path in paths:
            try:
                with Progress(*columns, console=console, transient=True) as progress:
                    task = progress.add_task("starting", total=None)
                    built, is_new = build_engine(
                        path,
                        library,
                        name,
                        is_here=is_here,
                        profiles=profiles,
                        report=partial(_show, progress, task),
                        say=partial(console.print, markup=False, highlight=False, soft_wrap=True),
                    )
            except BuildFailed as error:
                for line in error.log[-NUM_SHOWN_LINES:]:
                    console.print(line, markup=False, highlight=False, soft_wrap=True)
                raise
            place = path.with_name(built.engine)
            about = f"tensorrt, {built.precision}, {built.target}, {library}"
            say(f"{place}: {about}, {place.stat().st_size / MB:.1f} MB{'' if is_new else ', was there'}")
            for each, size in zip(built.profiles, built.memory_bytes, strict=False):
                say(f"  profile {each}: {size / MB:.0f} MB for activations")


def _show(progress: Progress, task: TaskID, what: str) -> None:
    progress.update(task, description=what)
