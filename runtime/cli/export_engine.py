"""`antiphon export engine`, and what `--format tensorrt` adds to other commands: engines from ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import signals
from antiphon.cli.streams import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from antiphon.codec.tensorrt.profile import Profile
    from antiphon.export.part import Part

__all__ = [
    "Batch",
    "MaxFrames",
    "MinFrames",
    "OptFrames",
    "PartName",
    "Profiles",
    "Sizes",
    "Target",
    "build_engines",
    "check_not_given",
    "check_target",
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
    int | None,
    typer.Option("--min", metavar="SIZE", help="Least mel frames, or tokens.", rich_help_panel=PANEL),
]
OptFrames = Annotated[
    int | None,
    typer.Option("--opt", metavar="SIZE", help="Those to be fastest at.", rich_help_panel=PANEL),
]
MaxFrames = Annotated[
    int | None,
    typer.Option("--max", metavar="SIZE", help="Most mel frames, or tokens.", rich_help_panel=PANEL),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="ROWS",
        help="Most rows: of the flow, two for each utterance; of the vision tower, tiles.",
        rich_help_panel=PANEL,
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="SIZESxROWS",
        help="Frames and rows, each least:usual:most, such as 1:256:320x1:2:32; of the encoder, units, "
        "frames and rows. May be given several times, instead of --min, --opt, --max and --batch. "
        "Default: one for many short inputs, one for few long ones.",
        rich_help_panel=PANEL,
    ),
]


class PartName(str, Enum):
    """Of `antiphon.export.parts.PARTS`, which are not imported before a command runs."""

    FLOW = "flow"
    SOLVER = "solver"
    ENCODER = "encoder"
    HIFT = "hift"
    TOKENIZER = "tokenizer"
    LISTENING = "listening"
    VISION = "vision"
    ALL = "all"


def engine(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `antiphon export` wrote.")],
    part: Annotated[
        PartName, typer.Option("--part", help="Of which file; all: of each that is there.")
    ] = PartName.FLOW,
    target: Target = None,
    min_frames: MinFrames = None,
    opt_frames: OptFrames = None,
    max_frames: MaxFrames = None,
    batch: Batch = None,
    profile: Profiles = None,
) -> None:
    """Build an engine of TensorRT from an ONNX file in a folder, unless it is there already."""
    from antiphon.codec.exported import flow_file
    from antiphon.errors import CheckpointError
    from antiphon.export.parts import part_of, parts_in

    sizes = Sizes(min_frames, opt_frames, max_frames, batch, profile or ())
    found: dict[str, Path] = {}
    for each, path in parts_in(folder):
        found.setdefault(each.kind, path)
    if part is PartName.ALL:
        sizes.check_none("--part all")
        if not found:
            raise CheckpointError(f"{folder}: expected files that `antiphon export` writes, found none")
        build_engines(list(found.values()), target, ())
        return
    if part is PartName.FLOW and not found:
        flow_file(folder)  # says what is missing
    if part.value not in found:
        there = ", ".join(found) or "none"
        raise CheckpointError(
            f"{folder}: expected the file of {part.value}, found those of: {there}; see --part"
        )
    own = part_of(part.value)
    assert own is not None, "named in PartName"
    build_engines([found[part.value]], target, sizes.profiles(own))


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


@dataclass(frozen=True)
class Sizes:
    """The options that ask for profiles."""

    min_frames: int | None = None
    opt_frames: int | None = None
    max_frames: int | None = None
    batch: int | None = None
    written: Sequence[str] = ()
    """Profiles as text"""

    def given(self) -> list[str]:
        sizes = {
            "--min": self.min_frames,
            "--opt": self.opt_frames,
            "--max": self.max_frames,
            "--batch": self.batch,
        }
        return [name for name, size in sizes.items() if size is not None]

    def check_none(self, where: str) -> None:
        """Raises ConfigError if there is one."""
        from antiphon.errors import ConfigError

        for name in (*self.given(), *(["--profile"] if self.written else [])):
            raise ConfigError(f"{name}: expected a single part, whose sizes it is of, got {where}")

    def profiles(self, part: Part[Any, Any]) -> Sequence[Profile]:
        """Those that are asked for, of a part; none for its own. Raises ConfigError."""
        from antiphon.codec.tensorrt.profile import Profile, Span
        from antiphon.errors import ConfigError

        given = self.given()
        if self.written:
            if given:
                raise ConfigError(f"{given[0]}: expected either it or --profile, got both")
            return [Profile.parse(each) for each in self.written]
        if not given:
            return ()
        short = part.engine.profiles[0]
        if len(short.sizes) > 1:
            raise ConfigError(
                f"{given[0]}: expected --profile for {part.kind}, whose units and frames vary: {short}"
            )
        if not short.sizes and given != ["--batch"]:
            raise ConfigError(f"{given[0]}: expected --batch for {part.kind}, which has no frames")
        rows = short.rows.most if self.batch is None else self.batch
        of_rows = Span(1, min(short.rows.usual, rows), rows)
        if not short.sizes:
            return [Profile((), of_rows)]
        size = short.frames
        most = size.most if self.max_frames is None else self.max_frames
        usual = min(size.usual, most) if self.opt_frames is None else self.opt_frames
        least = size.least if self.min_frames is None else self.min_frames
        return [Profile((Span(least, usual, most),), of_rows)]


def build_engines(paths: Sequence[Path], target: str | None, profiles: Sequence[Profile]) -> None:
    """Builds one from each file, and says what came of it. profiles: none for those of each part. If a
    builder fails, the last lines of its log go to standard error first."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from antiphon.export.tensorrt.build import BuildFailed, build_engine, builder_for, rest_path
    from antiphon.files.checkpoint import is_there

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
            if is_there(rest_path(path)):
                say(f"  {rest_path(path)}: makes its inputs")


def _show(progress: Progress, task: TaskID, what: str) -> None:
    progress.update(task, description=what)
