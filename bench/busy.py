"""Other work on the same cores, since machines are shared: processes that compute without end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

__all__ = ["Busy", "busy_processes"]

Busy = Annotated[
    int,
    typer.Option(
        "--busy", min=0, max=64, help="Processes that compute beside it all the time, of equal priority."
    ),
]
LOOP = "while True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """`count` processes, each of which would keep a core busy by itself, until the block ends."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-S", "-c", LOOP])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
