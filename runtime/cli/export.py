"""`antiphon export`: networks of a codec and of a model as ONNX files, and whether they compute what PyTorch
computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import export_engine, export_llm, signals
from antiphon.cli.export_engine import Batch, MaxFrames, MinFrames, OptFrames, Profiles, Sizes, Target
from antiphon.cli.streams import say
from antiphon.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from antiphon.export.part import Part
    from antiphon.export.sources import Folders
    from antiphon.export.verify import Row

__all__ = ["app"]

MB = 1e6
NO_SIZES = Sizes()

app = typer.Typer(
    name="export",
    help="Write networks of the codec and the model as ONNX files and engines; compare them with PyTorch.",
    no_args_is_help=True,
)
app.command()(export_engine.engine)
app.command()(export_llm.llm)


class Format(str, Enum):
    ONNX = "onnx"
    TENSORRT = "tensorrt"


class Precision(str, Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Weights(str, Enum):
    INSIDE = "inside"
    BESIDE = "beside"


Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it must not exist.")]
CodecFolder = Annotated[
    Path | None,
    typer.Option(
        "--codec", "-c", metavar="FOLDER", help="CosyVoice folder. Default: the small packaged codec."
    ),
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", metavar="FOLDER", help="Stream-Omni checkpoint. Default: the small packaged one."
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", help="Of the files; tensorrt: an engine is built beside each ONNX file."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Of the products and their weights; norms, softmax, the residual stream, inputs and outputs "
        "are float32 in any case. int8: of all but the layers that would be off the most.",
    ),
]
WeightsOption = Annotated[
    Weights,
    typer.Option(
        "--weights",
        help="Inside each file, or beside it in FILE.data, as a network of 2 GB or more needs.",
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def flow(
    out: Out,
    codec: CodecFolder = None,
    kind: FormatOption = Format.ONNX,
    precision: PrecisionOption = Precision.FP32,
    weights: WeightsOption = Weights.INSIDE,
    solver: Annotated[
        bool, typer.Option("--solver", help="Also write the ten steps with guidance as one graph.")
    ] = False,
    cosyvoice_names: Annotated[
        bool,
        typer.Option(
            "--cosyvoice-names", help="Call the file, its inputs and its output as CosyVoice calls them."
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            help="Of int8: a line is an utterance, its units or a text that the packaged model answers. "
            "Default: twelve questions that come with the package.",
        ),
    ] = None,
    target: Target = None,
    min_frames: MinFrames = None,
    opt_frames: OptFrames = None,
    max_frames: MaxFrames = None,
    batch: Batch = None,
    profile: Profiles = None,
) -> None:
    """Write the flow's velocity estimator: any batch, any number of frames, masks for padding."""

    def chosen(folders: Folders) -> list[Part[Any, Any]]:
        from antiphon.export.flow import FLOW_PART, SOLVER_PART, cosyvoice_part

        estimator = cosyvoice_part(precision.value) if cosyvoice_names else FLOW_PART
        return [estimator, SOLVER_PART] if solver else [estimator]

    if calibrate is not None and precision is not Precision.INT8:
        raise typer.BadParameter(
            f"expected --precision int8, got {precision.value}", param_hint="--calibrate"
        )
    sizes = Sizes(min_frames, opt_frames, max_frames, batch, profile or ())
    _write(
        chosen,
        out,
        kind,
        precision,
        weights,
        codec=codec,
        calibrate=calibrate,
        target=target,
        sizes=sizes,
    )


def _add(part: str, folder: str, about: str) -> None:
    """A command for one part, whose weights are in a codec's or a model's folder."""

    def chosen(folders: Folders) -> list[Part[Any, Any]]:
        from antiphon.export.parts import PARTS

        return [each for each in PARTS if each.kind == part]

    def of_codec(
        out: Out,
        codec: CodecFolder = None,
        kind: FormatOption = Format.ONNX,
        precision: PrecisionOption = Precision.FP32,
        weights: WeightsOption = Weights.INSIDE,
        target: Target = None,
        min_frames: MinFrames = None,
        opt_frames: OptFrames = None,
        max_frames: MaxFrames = None,
        batch: Batch = None,
        profile: Profiles = None,
    ) -> None:
        sizes = Sizes(min_frames, opt_frames, max_frames, batch, profile or ())
        _write(chosen, out, kind, precision, weights, codec=codec, target=target, sizes=sizes)

    def of_model(
        out: Out,
        model: ModelFolder = None,
        kind: FormatOption = Format.ONNX,
        precision: PrecisionOption = Precision.FP32,
        weights: WeightsOption = Weights.INSIDE,
        target: Target = None,
        min_frames: MinFrames = None,
        opt_frames: OptFrames = None,
        max_frames: MaxFrames = None,
        batch: Batch = None,
        profile: Profiles = None,
    ) -> None:
        sizes = Sizes(min_frames, opt_frames, max_frames, batch, profile or ())
        _write(chosen, out, kind, precision, weights, model=model, target=target, sizes=sizes)

    app.command(part, help=about)(of_codec if folder == "codec" else of_model)


_add("encoder", "codec", "Write the unit encoder and the length regulator: units to the flow's conditions.")
_add("hift", "codec", "Write the vocoder: mel to sound, with its noise and phases as inputs.")
_add("tokenizer", "codec", "Write the speech tokenizer: log-mels in, units out.")
_add("listening", "model", "Write the bottom speech layers with the CTC head: units in, what they say out.")
_add("vision", "model", "Write the vision tower with the projector: pixels in, what the LLM reads out.")


@app.command("all")
def write_all(
    out: Out,
    codec: CodecFolder = None,
    model: ModelFolder = None,
    kind: FormatOption = Format.ONNX,
    precision: PrecisionOption = Precision.FP32,
    weights: WeightsOption = Weights.INSIDE,
    target: Target = None,
) -> None:
    """Write every network: of the codec and of the model, or of one of them if only that is given.

    A network that has no such precision is written in fp32. One that no engine can be made of, such as a
    tokenizer of another project, is written as an ONNX file alone.
    """

    def chosen(folders: Folders) -> list[Part[Any, Any]]:
        from antiphon.export.parts import PARTS

        given = {"codec": codec is not None, "model": model is not None}
        return [
            part
            for part in PARTS
            if (given[part.folder] or not any(given.values())) and part.is_there(folders.of(part))
        ]

    _write(chosen, out, kind, precision, weights, codec=codec, model=model, target=target, is_all=True)


@app.command()
def verify(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that `antiphon export` wrote.")
    ],
    codec: CodecFolder = None,
    model: ModelFolder = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter batches.")] = False,
    word_error: Annotated[
        bool,
        typer.Option(
            "--word-error",
            help="Also have the packaged model speak with each exported flow, and count the words that are "
            "misheard.",
        ),
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")
    ] = None,
) -> None:
    """Compare exported networks with PyTorch in float32: short and long ones, and ragged batches.

    Ends with status 1 if one is off by more than its precision allows.
    """
    with signals.at_once():
        from rich.console import Console

        from antiphon.cli.word_error import measured, table_of
        from antiphon.errors import ConfigError
        from antiphon.export.tensorrt.running import engines_left_out
        from antiphon.export.verify import verify
        from antiphon.files.writing import check_writable, write_whole

        if json_out is not None:
            check_writable(json_out)
        if word_error and codec is not None:
            raise ConfigError("--word-error: expected the packaged codec, got --codec")
        console, sources = Console(stderr=True), _folders(codec, model)
        compared: dict[str, list[Row]] = {}
        for folder in folders:
            with console.status("comparing") as status:
                report = lambda what: status.update(f"comparing {what}")  # noqa: E731
                compared[str(folder)] = list(verify(folder, sources, quick=quick, report=report))
            for table in _tables(compared[str(folder)]):
                Console().print(table)
            for name, why in engines_left_out(folder):
                say(f"{name}: not run: {why}")
        heard = measured(folders) if word_error else []
    if heard:
        Console().print(table_of(heard))
    rows = [{"folder": name} | asdict(row) for name, own in compared.items() for row in own]
    if json_out is not None:
        record = {"rows": rows, "word_error": [asdict(row) for row in heard]}
        write_whole(json_out, (json.dumps(record, indent=1) + "\n").encode())
    if not all(row["is_within"] for row in rows) or not all(row.is_within for row in heard):
        raise typer.Exit(1)


def _write(
    chosen: Callable[[Folders], list[Part[Any, Any]]],
    out: Path,
    kind: Format,
    precision: Precision,
    weights: Weights,
    *,
    codec: Path | None = None,
    model: Path | None = None,
    is_all: bool = False,
    calibrate: Path | None = None,
    target: str | None = None,
    sizes: Sizes = NO_SIZES,
) -> None:
    """is_all: a part that lacks the precision, or that no engine can be made of, is not refused."""
    if kind is Format.ONNX:
        export_engine.check_not_given(
            target=target,
            min=sizes.min_frames,
            opt=sizes.opt_frames,
            max=sizes.max_frames,
            batch=sizes.batch,
            profile=list(sizes.written),
        )
    else:
        export_engine.check_target(target)  # before half a minute of tracing
    with signals.at_once():  # there is nothing to keep
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from antiphon.export.folder import export_parts

        folders = _folders(codec, model)
        parts = chosen(folders)
        profiles = sizes.profiles(parts[0]) if parts else ()
        without = _without_engines(parts, folders) if kind is Format.TENSORRT else {}
        if without and not is_all:
            part, why = next(iter(without.items()))
            raise ConfigError(f"--format: expected onnx for this {part}, got tensorrt: {why}")
        folders.calibrate(calibrate, lambda what: progress.update(task, description=f"calibrating: {what}"))
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("starting", total=None)
            written = export_parts(
                parts,
                folders,
                out,
                precision=precision.value,
                or_fp32=is_all,
                weights=weights.value,
                report=lambda what: progress.update(task, description=f"writing {what}"),
            )
    for each in written:
        say(f"{each.path}: onnx, {each.precision}, {each.num_bytes / MB:.1f} MB")
    if kind is Format.TENSORRT:
        for part, why in without.items():
            say(f"{part}: no engine: {why}")
        paths = [each.path for part, each in zip(parts, written, strict=True) if part.kind not in without]
        export_engine.build_engines(paths, target, profiles)


def _without_engines(parts: list[Part[Any, Any]], folders: Folders) -> dict[str, str]:
    """The kinds of those that no engine can be made of, and why."""
    reasons = {part.kind: part.no_engine(folders(part)) for part in parts}
    return {part: why for part, why in reasons.items() if why}


def _folders(codec: Path | None, model: Path | None) -> Folders:
    from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
    from antiphon.export.sources import Folders

    return Folders(codec or EMBEDDED_CODEC, model or EMBEDDED_MODEL)


def _tables(rows: list[Row]) -> Iterator[Table]:
    """One for each file."""
    from rich.box import SIMPLE
    from rich.table import Table

    for file in dict.fromkeys(row.file for row in rows):
        own = [row for row in rows if row.file == file]
        table = Table(
            title=f"{file} ({own[0].precision}) against PyTorch in float32",
            title_justify="left",
            box=SIMPLE,
            padding=0,
        )
        for name in ("rows", own[0].size, "result", "error", "relative", "rms", "allowed", "NaN", ""):
            table.add_column(name, justify="left" if name in ("result", "allowed") else "right")
        for row in own:
            longest, shortest = max(row.sizes), min(row.sizes)
            table.add_row(
                str(len(row.sizes)),
                str(longest) if longest == shortest else f"{shortest}-{longest}",
                row.result,
                f"{row.max_error:.1e}",
                f"{row.relative_error:.1e}",
                f"{row.rms_error:.1e}",
                f"{row.bound:g}" + ("" if row.measure == "absolute" else f" {row.measure}"),
                str(row.num_nan),
                "ok" if row.is_within else "off",
            )
        yield table
