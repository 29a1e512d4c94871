"""`antiphon export llm`: the LLM of a checkpoint as a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from antiphon.cli import signals
from antiphon.cli.streams import say

__all__ = ["llm"]

MB = 1e6


def llm(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it must not exist.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FOLDER",
            help="Stream-Omni checkpoint. Default: the small packaged one.",
        ),
    ] = None,
) -> None:
    """Write the LLM as a Llama folder, which Hugging Face and vLLM load. Nothing is computed: its tensors are
    copied, in whatever precision they are stored in."""
    with signals.at_once():  # there is nothing to keep
        from antiphon.assets.embedded import EMBEDDED_MODEL
        from antiphon.model.checkpoint.llm_folder import export_llm

        written = export_llm(model or EMBEDDED_MODEL, out, progress=True)
    files = "1 file" if written.num_files == 1 else f"{written.num_files} files"
    say(f"{written.path}: {written.num_bytes / MB:.1f} MB of weights in {files}")
