"""The other end of `worker.py`: its process, what goes to it, and what comes from it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from antiphon.errors import EngineDead
from antiphon.model.vllm.worker import read_frame, write_frame
from antiphon.plain import cut, one_line
from antiphon.process.at_exit import end_before_exit, start_thread

__all__ = ["WorkerProcess"]

WORKER = Path(__file__).with_name("worker.py")
LOOK_UP_S = 0.25
"""How often it is checked whether the process has ended without a word."""
END_S = 3.0
MAX_LINE_CHARS = 2000

logger = logging.getLogger("antiphon.vllm")


class WorkerProcess:
    """A process with vLLM. Its threads read, write and log, so that no caller waits for it.

    Whatever ends it, `failure` says why; what it sent before is still there to be taken.
    """

    def __init__(
        self, python: str, arguments: Mapping[str, Any], env: Mapping[str, str], folder: Path
    ) -> None:
        """folder: its working directory, which Python's path may begin with. Raises OSError if it cannot be
        started."""
        self.version: str | None = None
        """Of vLLM, once the model is loaded."""
        self._pid = os.getpid()
        self._failure: str | None = None
        self._has_hung_up = False
        self._lines: deque[str] = deque(maxlen=20)
        self._news: deque[dict[str, Any]] = deque()
        self._bell = threading.Event()
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        self._end, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [python, "-u", str(WORKER), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    env=dict(env),
                    cwd=folder,
                    start_new_session=True,  # Ctrl-C is for us
                )
        except BaseException:
            self._end.close()
            raise
        end_before_exit(self)
        try:
            self._threads = [
                start_thread(run, name)
                for run, name in (
                    (self._read, "antiphon-text-in"),
                    (self._write, "antiphon-text-out"),
                    (self._log, "antiphon-text-log"),
                )
            ]
        except BaseException:
            self._threads = []
            self.close()
            raise
        self.send({"start": dict(arguments)})

    @property
    def failure(self) -> str | None:
        """Why nothing more will come; None while something may."""
        if self._failure is None and not self._has_hung_up and self._process.poll() is None:
            return None
        return self._last_words()

    def wait_ready(self) -> None:
        """Wait until the model is loaded. Raises EngineDead with the reason if it will not be."""
        while self.version is None:
            if (why := self.failure) is not None and not self._news:
                raise EngineDead(f"vLLM has not started: {why}")
            self._bell.wait(LOOK_UP_S)
            self._bell.clear()
            self._note_ready()

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """Send it soon. If the process has ended, `failure` says so."""
        self._outbox.put((message, blob))

    def take(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""
        self._bell.clear()
        self._note_ready()
        taken = []
        while self._news:
            taken.append(self._news.popleft())
        return taken

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take, or the time is over."""
        self._bell.wait(timeout_s)

    def stop(self) -> None:
        """Tell the process and our threads to end. Takes no lock, so finalizers may call it. Does nothing in
        a forked child: they are its parent's."""
        if self._pid != os.getpid():
            return
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._outbox.put(None)
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """End it, and all that it has started."""
        if self._pid != os.getpid():
            return
        self.stop()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(END_S)
        for thread in self._threads:
            thread.join(END_S)
        self._end.close()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _note_ready(self) -> None:
        if self.version is None and self._news and "ready" in self._news[0]:
            self.version = str(self._news.popleft()["ready"])

    # --- its threads --------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while (frame := read_frame(self._end)) is not None:
                message, _ = frame
                if "failed" in message:
                    self._failure = one_line(message["failed"])
                else:
                    self._news.append(message)
                self._bell.set()
        except OSError:  # it is gone
            pass
        except (ValueError, TypeError, MemoryError) as error:
            self._failure = f"it broke the protocol: {one_line(error)}"
        finally:
            self._has_hung_up = True
            self._bell.set()

    def _write(self) -> None:
        with suppress(OSError):  # the reader hears of its end
            while (frame := self._outbox.get()) is not None:
                write_frame(self._end, *frame)

    def _log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(MAX_LINE_CHARS):
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._lines.append(text)
                    logger.debug("%s", text)

    def _last_words(self) -> str:
        """Why it has ended, once what it said last has been read."""
        deadline_s = time.monotonic() + LOOK_UP_S
        while not self._has_hung_up or self._process.poll() is None:
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.01)
        if self._failure is not None:
            return self._failure
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        status = self._process.poll()
        how = "it has hung up" if status is None else f"its process has ended with status {status}"
        last = self._lines[-1] if self._lines else ""
        return f"{how}: {cut(last, 200)}" if last else how
