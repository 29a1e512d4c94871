"""The standard streams, which may be closed, full, or in another encoding."""

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
"""Characters of an error that are shown; a longer one loses its middle, which may be a name."""


class NotShown(Exception):
    """Something could not be printed; `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def prepare_streams() -> None:
    """Opens streams that are closed, makes all characters writable, and ignores a terminal width of 0.

    A file opened later would otherwise get the number of a closed stream, and what is written to that stream.
    """
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,3}", os.environ.get(name, "80")):
            del os.environ[name]
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream, errors in (
        (sys.stdin, "surrogateescape"),  # file names are bytes
        (sys.stdout, "replace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)


def flush_streams() -> OSError | None:
    """Flushes what was printed. If that fails, returns why and drops it, or the interpreter would try again
    at exit, and complain."""
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:  # closed in the meantime
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
    """Prints without delay. Raises NotShown if it cannot be written (a closed pipe, a full disk)."""
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
    """An error for people to read: the file and the reason of an OSError; of bounded length, without line
    breaks, which would turn one message into two, and without control characters for the terminal."""
    text = str(message)
    if isinstance(message, OSError) and message.strerror:
        name = message.filename
        text = message.strerror if name is None else f"{os.fsdecode(name)}: {message.strerror}"
    text = " ".join(cut(text, MAX_LINE, middle=True).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_stdin(max_bytes: int) -> bytes:
    """All of stdin, or its first `max_bytes` + 1 bytes if there are more than `max_bytes`."""
    from antiphon.files.reading import read_stream

    with FileIO(0, closefd=False) as file:
        return read_stream(file, max_bytes)
