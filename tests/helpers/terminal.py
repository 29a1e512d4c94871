"""The program at a terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

from command_line import TIMEOUT_S, environment

__all__ = ["Terminal"]


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *arguments: str, cwd: Path | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "antiphon", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environment() | {"TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(theirs)
        self._screen = b""

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def wait_for(self, text: bytes) -> bytes:
        """What is shown next; all up to it is done with. Returns what came before it."""
        until = time.monotonic() + TIMEOUT_S
        while text not in self._screen:
            assert select.select([self._ours], [], [], max(0, until - time.monotonic()))[0], self._screen
            self._screen += os.read(self._ours, 4096)
        before, _, self._screen = self._screen.partition(text)
        return before

    def end(self) -> int:
        try:
            return self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()
            os.close(self._ours)
