"""The program `antiphon` in a process of its own, as a shell starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Child", "Ended", "antiphon", "environment", "run_python"]

TIMEOUT_S = 120
"""Long enough for whatever does not hang, even on a slow machine."""


@dataclass(frozen=True)
class Ended:
    status: int
    out: bytes
    err: str


def _as_a_shell_does() -> None:
    """Does not ignore Ctrl-C, as processes do in the background of some shells."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def environment() -> dict[str, str]:
    """With one thread: where other tests run at the same time, more threads mostly wait for each other."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run_python(*arguments: str, stdin: bytes = b"", **options: Any) -> Ended:
    """Runs Python to its end. `options` are those of `subprocess.run`."""
    usual: dict[str, Any] = {
        "input": stdin,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "preexec_fn": _as_a_shell_does,
    }
    done = subprocess.run(
        [sys.executable, *arguments], check=False, timeout=TIMEOUT_S, env=environment(), **(usual | options)
    )
    return Ended(done.returncode, done.stdout or b"", (done.stderr or b"").decode())


def antiphon(*arguments: str, **options: Any) -> Ended:
    return run_python("-m", "antiphon", *arguments, **options)


class Child:
    """The program while it runs, its output read as it comes."""

    def __init__(self, *arguments: str, stdin: int = subprocess.PIPE, cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "antiphon", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            bufsize=0,
            env=environment(),
            preexec_fn=_as_a_shell_does,  # noqa: PLW1509
        )
        self._timer = threading.Timer(TIMEOUT_S, self._process.kill)
        self._timer.start()
        self._out = b""

    @property
    def out(self) -> bytes:
        """What was read of its output so far."""
        return self._out

    def send(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)

    def wait_for(self, text: bytes) -> None:
        assert self._process.stdout is not None
        while text not in self._out:
            piece = os.read(self._process.stdout.fileno(), 4096)
            assert piece, f"ended without {text!r}: {self._out!r}"
            self._out += piece

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> Ended:
        """Waits for the program to end."""
        try:
            out, err = self._process.communicate()
        finally:
            self._timer.cancel()
        return Ended(self._process.returncode, self._out + out, err.decode())
