"""The process in which vLLM makes the text of replies: prompts come in, ids go out, over one socket.

It is run by path, by a Python that may have other packages than ours. So it imports nothing of Antiphon, and
at first nothing but the standard library. Both ends read and write frames with the functions of this file:

    length of the JSON, length of the bytes   | JSON ... | bytes ...
    two unsigned 64-bit integers, big-endian

    to the worker                                       from it
    {"start": {engine arguments}}                       {"ready": version} or {"failed": why}
    {"ask": id, "ids": [...] or "shape": [n, hidden],
     "sampling": {...}} + embeddings as float32         {"text": [[id, [new ids], is last, cached]]}
    {"abort": [ids]}                                    {"refused": id, "why": ...}
    {"forget": true}: the prefix cache                  {"failed": why}: it ends

When the socket is closed, the process ends.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import sys
import threading
from dataclasses import fields
from importlib import import_module
from typing import Any

__all__ = ["MAX_BLOB_BYTES", "MAX_JSON_BYTES", "read_frame", "write_frame"]

MAX_JSON_BYTES = 64 << 20
MAX_BLOB_BYTES = 16 << 30
"""Embeddings of 131,072 positions of 32,768 numbers"""
MAX_TOLD_CHARS = 500
LENGTHS = struct.Struct(">QQ")


# --- frames ---------------------------------------------------------------------------------------


def write_frame(end: socket.socket, message: dict[str, Any], blob: bytes | memoryview = b"") -> None:
    """Write a message and the bytes that belong to it. Raises OSError if the other end is gone, and
    ValueError for more than it would read."""
    data = json.dumps(message, separators=(",", ":")).encode()
    _check_lengths(len(data), len(blob))
    end.sendall(LENGTHS.pack(len(data), len(blob)) + data)
    if blob:
        end.sendall(blob)


def read_frame(end: socket.socket) -> tuple[dict[str, Any], bytearray] | None:
    """The next message; None at the end of them. Raises ValueError for what is no frame, before memory is
    taken for it."""
    head = _read(end, LENGTHS.size)
    if head is None:
        return None
    num_json, num_blob = LENGTHS.unpack(head)
    _check_lengths(num_json, num_blob)
    data = _read(end, num_json)
    blob = _read(end, num_blob)
    if data is None or blob is None:
        return None
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError(f"expected a JSON object, found {type(message).__name__}")
    return message, blob


def _check_lengths(num_json: int, num_blob: int) -> None:
    for what, length, most in (("JSON", num_json, MAX_JSON_BYTES), ("data", num_blob, MAX_BLOB_BYTES)):
        if length > most:
            raise ValueError(f"expected a frame with at most {most} bytes of {what}, found {length}")


def _read(end: socket.socket, length: int) -> bytearray | None:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        count = end.recv_into(rest)
        if not count:
            return None
        rest = rest[count:]
    return data


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    end = socket.socket(fileno=int(sys.argv[1]))
    end.set_inheritable(False)
    # As a script's, its folder is first in the path, and would be in that of vLLM's own processes.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120
    first = read_frame(end)
    if first is None:
        return
    try:
        engine = Text(end, first[0]["start"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the other end is told
        write_frame(end, {"failed": _told(error)})
        return
    write_frame(end, {"ready": engine.version})
    try:
        engine.run()
    except OSError:  # nobody is there any more
        return
    except Exception as error:
        write_frame(end, {"failed": _told(error)})
        raise


class Text:
    """A vLLM engine and the requests that it answers."""

    def __init__(self, end: socket.socket, arguments: dict[str, Any]) -> None:
        """Raises whatever vLLM raises, and TypeError for arguments that it does not have."""
        vllm = self._vllm = import_module("vllm")
        known = {field.name for field in fields(vllm.EngineArgs)}
        for name in arguments:
            if name not in known:
                raise TypeError(f"EngineArgs of vLLM {vllm.__version__} have no {name!r}")
        self.version = str(vllm.__version__)
        self._end = end
        self._engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments))
        self._commands: queue.SimpleQueue[tuple[dict[str, Any], bytearray] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self) -> None:
        """Answer until the other end is closed."""
        while True:
            while not (self._engine.has_unfinished_requests() and self._commands.empty()):
                command = self._commands.get()
                if command is None:
                    return
                self._carry_out(*command)
            self._step()

    def _listen(self) -> None:
        command = None
        try:
            while (command := read_frame(self._end)) is not None:
                self._commands.put(command)
        finally:
            self._commands.put(None)

    def _carry_out(self, command: dict[str, Any], blob: bytearray) -> None:
        if "ask" in command:
            name = command["ask"]
            try:
                self._engine.add_request(
                    name, self._prompt(command, blob), self._sampling(command["sampling"])
                )
            except Exception as error:  # noqa: BLE001 - it concerns only this request
                write_frame(self._end, {"refused": name, "why": _told(error)})
        elif "abort" in command:
            self._engine.abort_request(command["abort"])
        elif "forget" in command:
            self._engine.reset_prefix_cache()

    def _step(self) -> None:
        news = []
        for output in self._engine.step():
            ids = [int(token) for token in output.outputs[0].token_ids]
            if ids or output.finished:
                news.append([output.request_id, ids, bool(output.finished), output.num_cached_tokens or 0])
        if news:
            write_frame(self._end, {"text": news})

    def _prompt(self, command: dict[str, Any], blob: bytearray) -> Any:
        if "ids" in command:
            prompt = {"prompt_token_ids": command["ids"]}
        else:
            torch = import_module("torch")
            embeddings = torch.frombuffer(blob, dtype=torch.float32).view(command["shape"])
            prompt = {"prompt_embeds": embeddings}
        renderer = getattr(self._engine, "renderer", None)
        return prompt if renderer is None else renderer.render_cmpl([prompt])[0]

    def _sampling(self, settings: dict[str, Any]) -> Any:
        # What ends a reply is for the other end to say: vLLM only has to know which ids do.
        kinds = import_module("vllm.sampling_params").RequestOutputKind
        return self._vllm.SamplingParams(
            **settings, ignore_eos=True, detokenize=False, output_kind=kinds.DELTA
        )


def _told(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:MAX_TOLD_CHARS]


if __name__ == "__main__":
    main()
