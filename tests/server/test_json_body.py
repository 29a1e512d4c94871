"""Large bodies are read as small ones are, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
from typing import Any

import httpx2
import pytest
from http_server import Served
from server_process import chat

from antiphon.inputs.base64_text import decode_base64
from antiphon.server import json_body
from antiphon.server.json_body import LARGE_BYTES, parsed

LONG = "A" * (3 * LARGE_BYTES + 5)


def either(read: Any, data: Any) -> Any:
    """What it returns, or what it raises, in words."""
    try:
        return read(data)
    except (ValueError, RecursionError) as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"a": LONG, "b": [1, 2.5, None, True, {"c": LONG[1:]}], "": -1}),
        json.dumps({"a": LONG + "\n\u00e9\U0001f600" + LONG, "b": "\ud800"}),
        json.dumps({"a": LONG + "\u00e9" + LONG}, ensure_ascii=False),
        json.dumps([LONG] * 2 + [1] * 30_000),
        json.dumps({LONG: 1}),
        '["' + LONG + "\n" + LONG + '"]',
        '["' + LONG,
        '["' + LONG + '\\"]',
        '["' + LONG + '"] 1',
        '{"a": "' + LONG + '", }',
        '{"a": NaN, "b": "' + LONG + '"}',
        " " * LARGE_BYTES + "[1]",
        "[" * LARGE_BYTES,
        "\ufeff[1]" + " " * LARGE_BYTES,
    ],
    ids=range(14),
)
def test_a_large_body_is_what_it_would_be_if_it_were_small(text: str) -> None:
    for encoding in ("utf-8", "utf-16-le"):
        body = text.encode(encoding, "surrogatepass")
        assert len(body) >= LARGE_BYTES
        found = either(lambda data: asyncio.run(parsed(data)), body)
        wanted = either(json.loads, body)
        if isinstance(wanted, tuple) and wanted[0] == "RecursionError":
            assert found[0] == "RecursionError"
        else:
            assert repr(found) == repr(wanted)


def test_a_body_of_very_many_values_is_refused(served: Served) -> None:
    body = {**chat("Hello"), "metadata": dict.fromkeys(map(str, range(json_body.MOST_COMMAS + 1)), "")}
    answer = httpx2.post(f"{served.address}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert "at most 500000 commas" in answer.json()["error"]["message"]


def test_only_large_bodies_are_read_in_another_thread(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    loads = json_body._loaded

    def noted(body: bytes) -> Any:
        threads.append(threading.current_thread().name)
        return loads(body)

    monkeypatch.setattr(json_body, "_loaded", noted)
    sent: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**chat("How much is two plus three?"), "nonsense": ""}),
        ("/v1/responses", {"input": "Hello", "nonsense": ""}),
        ("/v1/audio/speech", {"model": "x", "voice": "alloy", "input": "Hello", "nonsense": ""}),
    ]
    for path, body in sent:
        for filler in ("", LONG):
            threads.clear()
            answer = served.http.post(path, json={**body, "nonsense": filler})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "nonsense")
            assert len(threads) == bool(filler)
            assert "http-server" not in threads
        broken = served.http.post(
            path, content=b"{" + b" " * LARGE_BYTES, headers={"content-type": "application/json"}
        )
        assert broken.json()["error"]["code"] == "invalid_json"


def test_large_base64_is_what_it_would_be_if_it_were_small() -> None:
    def whole(text: str) -> bytes:
        return base64.b64decode(text, validate=True)

    for size in (0, 1, 2, 3, 196_607, 196_608, 196_609, 600_000, 600_001):
        data = random.Random(size).randbytes(size)
        text = base64.b64encode(data).decode()
        assert decode_base64(text) == data
        middle = len(text) // 2
        for wrong in (text + "=", text[:-1], text[:middle] + "=" + text[middle:], text + "\n", text + "é"):
            assert either(decode_base64, wrong) == either(whole, wrong)
