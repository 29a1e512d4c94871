"""A server in a process of its own, and a signal that ends a measurement in order."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from antiphon.errors import AntiphonError

__all__ = ["run_until_signal", "server_process"]

START_S = 600.0
"""How long a server may take to load its model."""
END_S = 10.0
ANNOUNCED = "serving at "
MAX_SHOWN = 300

T = TypeVar("T")


@contextmanager
def server_process(arguments: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
    """`antiphon serve` on a free port, with these further arguments and variables of its environment, until
    the block ends; its address.

    Raises AntiphonError, with the last line of its log, if it does not start.
    """
    command = [sys.executable, "-m", "antiphon", "serve", "--port", "0", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | variables,
        )
        try:
            address = _announced(process)
            if address is None:
                process.kill()
                process.wait()
                log.seek(0)
                lines = log.read().decode(errors="replace").split("\n")
                told = next((line for line in reversed(lines) if line.strip()), "it says nothing")
                raise AntiphonError(f"the server did not start: {told.strip()[:MAX_SHOWN]}")
            yield address
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        finally:
            process.kill()  # at once if the measurement was given up
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _announced(process: subprocess.Popen[str]) -> str | None:
    """The address that a server prints once it answers; None if it has ended, or takes too long."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(ANNOUNCED):
                found.put(line.removeprefix(ANNOUNCED).strip())
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        return found.get(timeout=START_S)
    except queue.Empty:
        return None


def run_until_signal(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, in which a signal cancels `main`; it then does what it does outside of asyncio, whose
    tasks would otherwise swallow what a handler raises."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    before: dict[signal.Signals, Any] = {}
    taken: list[int] = []

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def take(number: int, _: FrameType | None) -> None:
            taken.append(number)
            loop.call_soon_threadsafe(task.cancel)

        for number in numbers:
            before[number] = signal.signal(number, take)
        return await main

    try:
        return asyncio.run(watched())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if taken:
            signal.raise_signal(taken[0])
