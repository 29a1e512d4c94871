"""`antiphon quantize`: a checkpoint with fewer bits, as a folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from antiphon.cli import signals
from antiphon.cli.streams import say

__all__ = ["quantize"]

MB = 1e6


class Scheme(str, Enum):
    INT8 = "int8"
    INT8_WEIGHT_ONLY = "int8-weight-only"


def quantize(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Stream-Omni checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist.")],
    scheme: Annotated[
        Scheme,
        typer.Option(
            help="int8-weight-only: the weights of the layers and heads in 8 bits. int8: also what they "
            "multiply, as it comes."
        ),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Modules that stay as they are, such as lm_head or 'model.layers.0.*'; may be given several "
            "times.",
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Then load SRC and after it DST, on the CPU, and show what was saved and lost: memory, "
            "signal to noise of each matrix, replies that stay the same, perplexity.",
        ),
    ] = False,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write the report's figures to this file."),
    ] = None,
) -> None:
    """Write a checkpoint in fewer bits, which --model takes as it is.

    DST is there once it is whole. A run that was ended, however that happened, is continued by the same
    command; until then, what it has written lies in a hidden folder beside DST. The schemes of bitsandbytes
    need no such folder: they quantize when a model is loaded, see --quantization of the other commands.
    """
    if json_out is not None and not report:
        raise typer.BadParameter("expected --report beside it, whose figures it writes", param_hint="--json")
    with signals.at_once():  # whatever has been written is of use to the next run
        from antiphon.model.checkpoint.quantized_folder import write_quantized
        from antiphon.model.schemes import INT8, INT8_WEIGHT_ONLY

        if json_out is not None:
            from antiphon.files.writing import check_writable

            check_writable(json_out)
        chosen = INT8 if scheme is Scheme.INT8 else INT8_WEIGHT_ONLY
        sizes = write_quantized(source, target, chosen, keep=keep or (), progress=True)
        after, before = sizes.target / MB, sizes.source / MB
        say(f"{target}: {scheme.value}, {after:.0f} MB of weights instead of {before:.0f}")
        if report:
            from antiphon.cli.quantization_report import show

            show(source, target, sizes, json_out)
