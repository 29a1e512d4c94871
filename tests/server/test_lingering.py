"""Answers that come before the request was read reach clients that send all of it first."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest
from http_server import Served, serving_http
from serving import load

from antiphon import AsyncEngine
from antiphon.server import request_body

PATH = "/v1/chat/completions"
LARGE = 24 << 20
"""More than the buffers of a connection hold."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """Takes small bodies of clients that know the key."""
    make = lambda: AsyncEngine.from_engine(load())  # noqa: E731
    with serving_http(make, max_body_bytes=1000, api_keys=("right",)) as served:
        yield served


def connected(served: Served) -> socket.socket:
    host, port = served.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def whole(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer, after which the server has closed the connection."""
    data = b""
    while more := connection.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


def head(key: str = "right", path: str = PATH, length: int | None = LARGE) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{size}\r\n\r\n".encode()


@pytest.mark.parametrize("client", ["httpx", "requests", "openai"])
@pytest.mark.parametrize(("key", "status"), [("right", 413), ("wrong", 401)])
def test_clients_see_why_a_large_body_is_refused(strict: Served, client: str, key: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    for _ in range(3):
        answer: Any
        if client == "openai":
            asks = openai.OpenAI(base_url=f"{strict.address}/v1", api_key=key, max_retries=0)
            messages: Any = [{"role": "user", "content": "x" * LARGE}]
            with asks, pytest.raises(openai.APIStatusError) as raised:
                asks.chat.completions.create(model="tiny", messages=messages)
            answer = raised.value.response
        elif client == "httpx":
            answer = strict.http.post(PATH, content=b"x" * LARGE, headers=headers)
        else:
            requests = pytest.importorskip("requests")
            answer = requests.post(strict.address + PATH, data=b"x" * LARGE, headers=headers, timeout=30)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] in ("request_too_large", "invalid_api_key")


@pytest.mark.parametrize(
    ("key", "path", "status"), [("right", PATH, 413), ("wrong", PATH, 401), ("right", "/nowhere", 413)]
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_socket_that_sends_all_before_it_reads(
    strict: Served, key: str, path: str, status: int, is_chunked: bool
) -> None:
    with connected(strict) as connection:
        if is_chunked:
            connection.sendall(head(key, path, None) + f"{LARGE:x}\r\n".encode())
            connection.sendall(b"x" * LARGE + b"\r\n0\r\n\r\n")
        else:
            connection.sendall(head(key, path) + b"x" * LARGE)
        if is_chunked and path == "/nowhere":
            status = 404  # its body was not read before it was answered
        assert whole(connection)[0] == status


def test_a_connection_is_kept_where_all_was_read(strict: Served) -> None:
    """A body that is not there, or that came with its head."""
    with httpx2.Client(base_url=strict.address, timeout=30) as http:
        for _ in range(2):
            answer = http.get("/v1/models")
            assert answer.status_code == 401
            assert "connection" not in answer.headers


def test_a_client_that_stops_sending_is_not_waited_for(
    strict: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "SILENCE_S", 0.2)
    with connected(strict) as connection:
        connection.sendall(head() + b"x" * 1000)
        begun_s = time.monotonic()
        assert whole(connection)[0] == 413
        assert 0.15 < time.monotonic() - begun_s < 8


@pytest.mark.parametrize(("limit", "most"), [("LINGER_S", 0.5), ("LINGER_BYTES", 8 << 20)])
def test_a_client_that_never_stops_is_cut_off(
    strict: Served, monkeypatch: pytest.MonkeyPatch, limit: str, most: float
) -> None:
    monkeypatch.setattr(request_body, limit, most)
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    until_s = time.monotonic() + 8
    with connected(strict) as connection:
        connection.sendall(head(length=None))
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < until_s:
                connection.sendall(piece)
    assert time.monotonic() < until_s
    assert strict.http.get("/health").status_code == 200
