"""The other end of `worker.py`: a process that makes speech, and its answers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from antiphon.codec.apart.asking import Asking, VocoderDied
from antiphon.codec.apart.worker import framed, unframed
from antiphon.codec.stopping import Stopped, stop_point
from antiphon.errors import AntiphonError, CheckpointError, ConfigError, EngineDead
from antiphon.plain import cut, one_line

__all__ = ["VocoderProcess"]

WORKER = Path(__file__).with_name("worker.py")
LOOK_UP_S = 0.05
"""How often whoever waits for an answer checks whether it is still wanted. That takes the interpreter from
the thread that computes the model."""
MAX_BYTES = 1 << 30
"""An hour of speech is 318 MB."""
MAX_LINE_CHARS = 2000
ERRORS = {error.__name__: error for error in (CheckpointError, ConfigError)}

logger = logging.getLogger("antiphon.vocoder")


class VocoderProcess(Asking):
    """A process with a codec that speaks. One thread at a time may ask it something."""

    def __init__(self, codec: Mapping[str, Any]) -> None:
        """codec: see `Vocoders`. Raises OSError if it cannot be started."""
        self.is_taken = False
        """Whether somebody may ask it something now."""
        self.num_rows = 0
        """Requests whose speech it is making."""
        self.has_answered = False
        """Whether it has ever made anything."""
        self.about: dict[str, Any] | None = None
        """What it said when its codec was loaded; None: it has yet to."""
        self._number = 0
        self._has_hung_up = False
        self._refusal: AntiphonError | None = None
        self._starting = threading.Lock()
        self._lines: deque[str] = deque(maxlen=20)
        self._pid = os.getpid()
        self._pipe, theirs = Pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-u", str(WORKER), str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C is for us
                )
        except BaseException:
            self._pipe.close()
            raise
        with suppress(OSError):  # `follow` sees that it has ended
            self._send({"start": {"path": sys.path, "codec": dict(codec)}})

    @property
    def pid(self) -> int:
        """The system's number of it."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it may still answer."""
        return not self._has_hung_up and self._process.poll() is None

    def is_ready(self, timeout_s: float = 0.0) -> bool:
        """Whether its codec is loaded; waits up to `timeout_s` for it. Raises CheckpointError or ConfigError
        if it cannot be loaded, and EngineDead with its last words if the process has ended."""
        with self._starting:
            if self._refusal is not None:
                raise self._refusal
            if self.about is None:
                try:
                    if self._pipe.poll(timeout_s):
                        self._take_first(self._receive()[0])
                except (EOFError, OSError):
                    self._refusal = EngineDead(f"a vocoder's process has not started: {self.last_words()}")
                    raise self._refusal from None
            return self.about is not None

    def follow(self) -> None:
        """Write what it prints to our log, until it ends."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(MAX_LINE_CHARS):
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._lines.append(text)
                    logger.debug("%s", text)
        self._process.wait()

    def last_words(self) -> str:
        """How it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.poll()
        if status is None:
            return "it has hung up"
        how = f"its process has ended with status {status}"
        if status < 0:
            with suppress(ValueError):
                how = f"its process was ended by {signal.Signals(-status).name}"
        last = self._lines[-1] if self._lines else ""
        return f"{how}: {cut(last, 200)}" if last else how

    def stop(self) -> None:
        """End it: it keeps nothing that would be lost. Takes no lock, so finalizers may call it. Does nothing
        in a forked child: it is its parent's."""
        if self._pid == os.getpid():
            self._process.kill()

    def ask(self, what: str, rows: Sequence[tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
        if not self.is_alive:  # it cannot have died of these rows
            raise Stopped
        self._number += 1
        self.num_rows = len(rows)
        try:
            self._send(
                {"number": self._number, what: [row for row, _ in rows]}, b"".join(data for _, data in rows)
            )
            is_wanted = self._await_answer()
            answer, data = self._receive()
        except (EOFError, OSError):
            self._has_hung_up = True
            raise VocoderDied(self.last_words()) from None
        finally:
            self.num_rows = 0
        if not is_wanted or "stopped" in answer:
            raise Stopped
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        self.has_answered = True
        return answer, data

    def _await_answer(self) -> bool:
        """Wait for the answer. False: it is not wanted any more, and the other end was told so."""
        is_wanted = True
        while not self._pipe.poll(LOOK_UP_S):
            if is_wanted:
                try:
                    stop_point()
                except Stopped:
                    is_wanted = False
                    self._send({"stop": self._number})
        return is_wanted

    def _take_first(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.about = message["ready"]
            return
        error = ERRORS.get(message["kind"])
        if error is None:
            self._refusal = EngineDead(f"a vocoder's process has not started: {one_line(message['failed'])}")
        else:
            self._refusal = error(message["failed"])
        raise self._refusal

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        self._pipe.send_bytes(framed(message, data))

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        return unframed(self._pipe.recv_bytes(MAX_BYTES))
