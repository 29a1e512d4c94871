"""Logs name requests, and hold nothing of what they say."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_server import Served
from server_process import chat, wait_until

from antiphon.process.faults import log_fault
from antiphon.server.log import MAX_WAITING, logs_written

MARK = "xyzzy-marker"


def ask_with_mark(served: Served) -> list[str]:
    """Requests of all kinds, good and bad, that hold the mark; returns their ids."""
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MARK}"}}
    sound = {"type": "input_audio", "input_audio": {"data": MARK, "format": "wav"}}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"json": chat(f"Hello {MARK}", max_tokens=4)}),
        ("/v1/chat/completions", {"json": chat(f"Hello {MARK}", max_tokens=4, stream=True)}),
        ("/v1/chat/completions", {"json": {"messages": [{"role": "user", "content": [url, sound]}]}}),
        ("/v1/chat/completions", {"json": chat(model=MARK)}),
        ("/v1/chat/completions", {"json": chat(**{MARK: MARK})}),
        ("/v1/chat/completions", {"content": f"{{{MARK}"}),
        ("/v1/chat/completions", {"content": json.dumps(chat("\ud800" + MARK))}),
        ("/v1/responses", {"json": {"input": MARK, "instructions": MARK}}),
        ("/v1/audio/speech", {"json": {"model": "other", "voice": MARK, "input": MARK}}),
        ("/v1/audio/transcriptions", {"files": {"file": (f"{MARK}.wav", MARK.encode())}}),
        ("/v1/audio/voices", {"files": {"audio_sample": (MARK, b"RIFF")}, "data": {"name": MARK}}),
        (f"/v1/models?key={MARK}", {"json": {}}),
    ]
    ids = []
    for path, body in bodies:
        headers = {"Authorization": f"Bearer {MARK}"}
        if "content" in body:
            headers["Content-Type"] = "application/json"
        ids.append(served.http.post(path, headers=headers, **body).headers["x-request-id"])
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_logs_hold_ids_and_no_contents(served: Served, log_format: str) -> None:
    file = io.StringIO()
    with logs_written(log_format, file):
        ids = ask_with_mark(served)
        wait_until(lambda: all(each in file.getvalue() for each in ids))
    lines = file.getvalue().splitlines()
    assert MARK not in file.getvalue()
    if log_format == "text":
        assert all(any(f" {each} POST " in line for line in lines) for each in ids)
        return
    told = [json.loads(line) for line in lines]
    assert {each["request_id"]: each["method"] for each in told if "request_id" in each} == dict.fromkeys(
        ids, "POST"
    )
    assert {each["status"] for each in told} >= {200, 400, 404, 405}
    assert all(each["seconds"] >= 0 and each["level"] == "info" for each in told)


def test_a_fault_is_one_line_of_json() -> None:
    file = io.StringIO()
    with logs_written("json", file):
        log_fault("it failed", error=ValueError("why"))
    [line] = file.getvalue().splitlines()
    told = json.loads(line)
    assert (told["level"], told["message"]) == ("error", "it failed")
    assert told["exception"].endswith("ValueError: why")


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails
    with logs_written("text", full):
        for number in range(20):
            logging.getLogger("antiphon.server").info("line %d", number)
    with pytest.raises(OSError, match="No space left"):
        full.close()


@contextmanager
def stuck_pipe() -> Iterator[tuple[int, Any]]:
    readable, writable = os.pipe()
    with os.fdopen(writable, "w") as file:
        try:
            yield readable, file
        finally:
            os.close(readable)


@pytest.mark.slow
def test_a_reader_that_stops_holds_up_nobody() -> None:
    """What it misses is counted."""
    log, read = logging.getLogger("antiphon.server"), bytearray()
    with stuck_pipe() as (readable, file), logs_written("text", file):
        for _ in range(2 * MAX_WAITING):
            log.info("x" * 100)

        def drain() -> None:
            while b"lines were dropped" not in read:
                read.extend(os.read(readable, 1 << 16))

        reader = threading.Thread(target=drain)
        reader.start()
        wait_until(lambda: not reader.is_alive())
        reader.join()
