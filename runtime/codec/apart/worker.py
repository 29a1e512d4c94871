"""The process in which speech is made of units: chunks come in, samples go out, over one pipe.

It is run by path, so that it can begin to listen before it imports anything that takes long: whatever it is
doing, it ends when the other end of the pipe is closed, or the process that started it is gone. A message is
a line of JSON, followed by bytes, in one piece: each write and read lets go of the interpreter, which the
thread that computes the model may then keep for milliseconds.

    to the worker                                       from it
    {"start": {...}}                                    {"ready": {...}} or {"failed": why, "kind": ...}
    {"number", "advance": [rows]} + states              {"rows": [...]} + states and samples
    {"number", "decode": [rows]} + voices               {"samples": [lengths]} + samples
    {"stop": number}: nobody wants it any more          {"stopped": true}, if it came in time
                                                        {"failed": why}: of these rows
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Inbox", "framed", "main", "unframed"]

LOOK_UP_S = 1.0
"""How often it is checked whether the parent is alive: one that it has forked may hold the pipe open."""


def framed(message: dict[str, Any], data: bytes = b"") -> bytes:
    """A message as it goes through the pipe."""
    return b"".join((json.dumps(message, separators=(",", ":")).encode(), b"\n", data))


def unframed(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """A message that has come. JSON has no line break unless it is told to."""
    line, _, data = frame.partition(b"\n")
    return json.loads(line), data


class Inbox:
    """What has come through the pipe, read by a thread of its own."""

    def __init__(self, pipe: Connection, parent: int) -> None:
        self._pipe = pipe
        self._parent = parent
        self._messages: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
        self._stopped = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def get(self) -> tuple[dict[str, Any], bytes]:
        """The next message; waits for it."""
        return self._messages.get()

    def is_stopped(self, number: int) -> bool:
        """Whether nobody wants the answer to this message any more."""
        return self._stopped >= number

    def _listen(self) -> None:
        try:
            while True:
                while not self._pipe.poll(LOOK_UP_S):
                    if os.getppid() != self._parent:
                        return
                message, data = unframed(self._pipe.recv_bytes())
                if "stop" in message:
                    self._stopped = message["stop"]
                else:
                    self._messages.put((message, data))
        except (EOFError, OSError):
            return
        finally:
            os._exit(0)  # from whatever the main thread is doing


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    inbox = Inbox(pipe, int(sys.argv[2]))
    start = inbox.get()[0]["start"]
    sys.path[:] = start["path"]

    def send(message: dict[str, Any], data: bytes = b"") -> None:
        pipe.send_bytes(framed(message, data))

    try:
        from antiphon.codec.apart.vocoding import Vocoding

        vocoding = Vocoding(start["codec"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the other end is told
        traceback.print_exc()
        send({"failed": str(error) or type(error).__name__, "kind": type(error).__name__})
        return
    send({"ready": vocoding.about()})
    while True:
        message, data = inbox.get()
        send(*vocoding.answer(message, data, partial(inbox.is_stopped, message["number"])))


if __name__ == "__main__":
    main()
