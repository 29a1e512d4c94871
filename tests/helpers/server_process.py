"""`antiphon serve` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from command_line import environment

__all__ = ["ServerProcess", "chat", "server_process", "wait_until"]

END_S = 60
"""Long enough for a server that ends."""


def wait_until(is_so: Callable[[], bool], what: str = "", timeout_s: float = END_S) -> None:
    """Returns as soon as it is so."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.01)


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat about a text."""
    return {"messages": [{"role": "user", "content": text}], **fields}


class ServerProcess:
    """The process once it serves, with a client. Its stderr goes to a file."""

    def __init__(self, process: subprocess.Popen[Any], address: str, err: Path, start_s: float) -> None:
        self.process = process
        self.address = address
        self.start_s = start_s
        """How long it took to start."""
        self._err = err
        self.http = httpx2.Client(base_url=address, timeout=60)

    @property
    def err(self) -> str:
        return self._err.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for its end, and returns its status."""
        return self.process.wait(END_S)


@contextmanager
def server_process(
    *arguments: str, program: tuple[str, ...] = ("-m", "antiphon"), limit_s: float = 2 * END_S, **options: Any
) -> Iterator[ServerProcess]:
    """Serve the packaged model until the block ends, or whatever `arguments` say.

    program: what Python runs. limit_s: after this it is killed. options: of `subprocess.Popen`; without
    `stderr`, that goes to a file.
    """
    begun_s = time.perf_counter()
    command = [sys.executable, *program, "serve", "--device", "cpu", "--port", "0", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        err = Path(folder) / "stderr"
        with err.open("wb") as file:
            used: Any = {"stderr": file, "env": environment()} | options
            process = subprocess.Popen(command, text=False, stdout=subprocess.PIPE, **used)
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            address = ""
            for line in process.stdout:
                if line.startswith(b"serving at "):
                    address = line.decode().split()[-1]
                    break
            assert address, f"it has ended before it began: {err.read_text()}"
            running = ServerProcess(process, address, err, time.perf_counter() - begun_s)
            with running.http:
                yield running
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
