"""`antiphon export`: networks of a codec as ONNX files, and whether they compute what PyTorch computes."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import export_engine, signals
from antiphon.cli.export_engine import Batch, MaxFrames, MinFrames, OptFrames, Profiles, Target
from antiphon.cli.streams import say

if TYPE_CHECKING:
    from rich.table import Table

    from antiphon.export.verify import Row

__all__ = ["app"]

MB = 1e6

app = typer.Typer(
    name="export",
    help="Write networks of the codec as ONNX files and engines, and compare them with PyTorch.",
    no_args_is_help=True,
)
app.command()(export_engine.engine)


class Format(str, Enum):
    ONNX = "onnx"
    TENSORRT = "tensorrt"


class Precision(str, Enum):
    FP32 = "fp32"
    FP16 = "fp16"


Codec = Annotated[
    Path | None,
    typer.Option(
        "--codec", "-c", metavar="FOLDER", help="CosyVoice folder. Default: the small packaged codec."
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def flow(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it must not exist.")
    ],
    codec: Codec = None,
    kind: Annotated[
        Format, typer.Option("--format", help="tensorrt also builds an engine from the ONNX file.")
    ] = Format.ONNX,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of the products and their weights; norms, softmax, the residual stream, inputs and outputs "
            "are float32 in any case."
        ),
    ] = Precision.FP32,
    solver: Annotated[
        bool, typer.Option("--solver", help="Also write the ten steps with guidance as one graph.")
    ] = False,
    cosyvoice_names: Annotated[
        bool,
        typer.Option(
            "--cosyvoice-names", help="Call the file, its inputs and its output as CosyVoice calls them."
        ),
    ] = False,
    target: Target = None,
    min_frames: MinFrames = None,
    opt_frames: OptFrames = None,
    max_frames: MaxFrames = None,
    batch: Batch = None,
    profile: Profiles = None,
) -> None:
    """Write the flow's velocity estimator: any batch, any number of frames, masks for padding."""
    with signals.at_once():  # there is nothing to keep
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from antiphon.assets.embedded import EMBEDDED_CODEC
        from antiphon.export.folder import export_flow, read_flow

        profiles = export_engine.chosen_profiles(min_frames, opt_frames, max_frames, batch, profile)
        if kind is Format.TENSORRT:
            from antiphon.export.tensorrt.build import builder_for

            builder_for(target)  # before half a minute of tracing
        source = read_flow(EMBEDDED_CODEC if codec is None else codec)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("starting", total=None)
            written = export_flow(
                source,
                out,
                precision=precision.value,
                solver=solver,
                cosyvoice_names=cosyvoice_names,
                report=lambda what: progress.update(task, description=f"writing {what}"),
            )
        for path in written:
            say(f"{path}: onnx, {precision.value}, {path.stat().st_size / MB:.1f} MB")
        if kind is Format.TENSORRT:
            export_engine.build_engines(written[:1], target, profiles)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `antiphon export` wrote.")],
    codec: Codec = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and shorter batches, up to 150 frames.")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")
    ] = None,
) -> None:
    """Compare exported networks with PyTorch in float32, on batches of 1 to 16 rows of 1 to 3,000 frames.

    Ends with status 1 if one is off by more than its precision allows.
    """
    with signals.at_once():
        from rich.console import Console

        from antiphon.assets.embedded import EMBEDDED_CODEC
        from antiphon.export.folder import read_flow
        from antiphon.export.verify import BATCHES, QUICK_BATCHES, verify
        from antiphon.files.writing import check_writable, write_whole

        if json_out is not None:
            check_writable(json_out)
        source = read_flow(EMBEDDED_CODEC if codec is None else codec)
        batches = QUICK_BATCHES if quick else BATCHES
        rows: list[Row] = []
        console = Console(stderr=True)
        with console.status("comparing") as status:
            for row in verify(source, folder, batches):
                rows.append(row)
                status.update(f"comparing: {len({each.frames for each in rows})} of {len(batches)} batches")
    Console().print(_table(rows))
    if json_out is not None:
        record = {"folder": str(folder), "rows": [asdict(row) for row in rows]}
        write_whole(json_out, (json.dumps(record, indent=1) + "\n").encode())
    if not all(row.is_within for row in rows):
        raise typer.Exit(1)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table

    from antiphon.export.verify import BOUNDS

    bounds = "; ".join(
        f"{name}: velocity {bound.relative:g} of the largest, mel {bound.mel:g}"
        for name, bound in BOUNDS.items()
        if name in {row.precision for row in rows}
    )
    table = Table(title="against PyTorch in float32", caption=f"allowed: {bounds}", padding=(0, 0))
    for name in ("file", "rows", "frames", "error", "relative", "mel", "NaN", ""):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    for row in rows:
        longest, shortest = max(row.frames), min(row.frames)
        table.add_row(
            f"{row.file} ({row.precision})",
            str(len(row.frames)),
            str(longest) if longest == shortest else f"{shortest}-{longest}",
            f"{row.max_error:.1e}",
            f"{row.relative_error:.1e}",
            f"{row.mel_error:.1e}",
            str(row.num_nan),
            "ok" if row.is_within else "off",
        )
    return table
