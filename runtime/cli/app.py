"""The `antiphon` program: its commands, and what errors look like there.

Commands import what they need when they run, so that help and wrong usage answer at once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from antiphon.cli import bench, chat, doctor, generate, profile
from antiphon.errors import AntiphonError, InvalidRequest

__all__ = ["app", "main"]

WRONG_USAGE = 2
"""Exit status for what the user can mend in the command line or the input; the rest is 1."""

app = typer.Typer(
    name="antiphon",
    help="Speech, pictures and text in; text and speech out, at the same time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(profile.profile)
app.command()(doctor.doctor)
app.add_typer(bench.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"antiphon {version('antiphon')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the program. What goes wrong for a known reason is one line on stderr, without a traceback."""
    try:
        app()
    except InvalidRequest as error:
        _fail(error, WRONG_USAGE)
    except (AntiphonError, OSError) as error:
        _fail(error, 1)


def _fail(error: Exception, status: int) -> NoReturn:
    typer.echo(f"antiphon: {error}", err=True)
    sys.exit(status)
