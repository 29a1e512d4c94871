"""The commands of the `antiphon` program.

Commands import what they need when they run, so that help and usage errors appear at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

import antiphon
from antiphon.cli import (
    bench,
    chat,
    doctor,
    evaluate,
    export,
    generate,
    profile,
    quantize,
    run_batch,
    run_stream_omni,
    serve,
)

__all__ = ["app"]

app = typer.Typer(
    name="antiphon",
    help="Speech, pictures and text in; text and speech out, at the same time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(run_stream_omni.run_stream_omni)
app.command()(run_batch.run_batch)
app.command()(quantize.quantize)
app.command()(profile.profile)
app.command()(doctor.doctor)
app.add_typer(export.app)
app.add_typer(bench.app)
app.add_typer(evaluate.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"antiphon {antiphon.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass
