"""Runs commands that Typer has made, with one style of error and words for types.

Typer draws a box around an error and shows the usage before it; Antiphon's errors are one line, whatever
finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
import typer.main

from antiphon.errors import ConfigError

__all__ = ["run_command", "run_program"]

UsageError: Any = typer.BadParameter.__base__
"""Of the click that Typer uses, which is its own in later versions."""
SHOWN_HELP = "NoArgsIsHelpError"
WORDS = {
    "bool": "",
    "boolean": "",
    "float": "NUMBER",
    "int": "INTEGER",
    "integer": "INTEGER",
    "path": "FILE",
    "str": "TEXT",
    "text": "TEXT",
}
"""What --help calls the values of an option, by what Typer does. A flag has none."""


def run_program(app: typer.Typer, name: str) -> int:
    """Runs the command that the program's arguments name; returns its exit status. Raises ConfigError for
    arguments that it does not take."""
    try:
        return run_command(app, name)
    except UsageError as error:
        if type(error).__name__ == SHOWN_HELP:
            return int(error.exit_code)
        raise ConfigError(_in_one_line(error)) from error


def run_command(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a command with these arguments, or with the program's; returns its exit status. Raises what Typer
    does for arguments that it does not take."""
    command = typer.main.get_command(app)
    _put_in_words(command)
    given = None if arguments is None else list(arguments)
    status = command(args=given, prog_name=name, standalone_mode=False)
    return status if isinstance(status, int) else 0


def _put_in_words(command: Any) -> None:
    """The help of the command, and of those within it: the lines of its paragraphs are those of the terminal,
    not those of its docstring, and what an option takes is a word."""
    command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    context = typer.Context(command)
    for param in command.get_params(context):
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: ""  # its name says enough
        elif param.metavar is None:
            shown = (getattr(param, "display_type_rich", None) or param.make_metavar)(context)
            kind = shown.strip("<>[]").removeprefix("list[").lower().removesuffix(" range")
            param.metavar = WORDS.get(kind, kind)
    for inner in getattr(command, "commands", {}).values():
        _put_in_words(inner)


def _in_one_line(error: Any) -> str:
    """For a value that is wrong, the option and why; for other mistakes, also where to read more."""
    message = error.message.removeprefix("Value error, ").rstrip(".")
    if type(error) is typer.BadParameter:
        hint = error.param_hint or ("" if error.param is None else error.param.get_error_hint())
        return ": ".join(filter(None, (str(hint).strip("'"), message)))
    message = error.format_message().rstrip(".").replace("'", "")
    more = "" if error.ctx is None else f"; see {error.ctx.command_path} --help"
    return f"{message[:1].lower()}{message[1:]}{more}"
