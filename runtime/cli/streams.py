"""The standard streams as a user may have left them: closed, full, or of another encoding."""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import suppress
from io import FileIO

from antiphon.plain import cut

__all__ = ["NotShown", "flush_streams", "one_line", "prepare_streams", "read_stdin", "say", "show_error"]

MAX_LINE = 1000
"""Characters of an error that are shown; of a longer one the middle is left out, which may be a name."""


class NotShown(Exception):
    """What was to be printed could not be; `error` is why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def prepare_streams() -> None:
    """Nothing that is closed stays so, no character cannot be written, and no terminal is 0 columns wide.

    A file opened later would get the number of a closed stream, and with it what is meant for that.
    """
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,3}", os.environ.get(name, "80")):
            del os.environ[name]
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream, errors in (
        (sys.stdin, "surrogateescape"),  # names of files are bytes
        (sys.stdout, "replace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)


def flush_streams() -> OSError | None:
    """What was printed goes out. Returns why it cannot: then it is dropped, or the interpreter would try once
    more at its end, and complain."""
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:  # closed meanwhile
            continue
        except OSError as error:
            failed = failed or error
            with suppress(OSError, ValueError, io.UnsupportedOperation):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                stream.flush()
    return failed


def say(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Prints now. Raises NotShown where it cannot be written (a pipe that was closed, a full disk)."""
    import typer

    try:
        typer.echo(text, nl=nl, err=err)
    except OSError as error:
        raise NotShown(error) from error


def show_error(message: object) -> None:
    """One line on stderr, if anyone can read it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"antiphon: {one_line(message)}\n")
        sys.stderr.flush()


def one_line(message: object) -> str:
    """An error for people: the file and the reason of an OSError; without line breaks, which would make two
    messages of one, nor what drives a terminal; of bounded length."""
    text = str(message)
    if isinstance(message, OSError) and message.strerror:
        name = message.filename
        text = message.strerror if name is None else f"{os.fsdecode(name)}: {message.strerror}"
    text = " ".join(cut(text, MAX_LINE, middle=True).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_stdin(max_bytes: int) -> bytes:
    """All that comes until its end; of more than `max_bytes`, `max_bytes` + 1 bytes."""
    from antiphon.files.reading import read_stream

    with FileIO(0, closefd=False) as file:
        return read_stream(file, max_bytes)
