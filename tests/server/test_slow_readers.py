"""Clients that stop reading, and clients that read slowly."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Served, serving_http
from server_process import chat, wait_until

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
BUFFER_BYTES = 4096
"""What the kernel may hold on each side, or little more."""
TIMEOUT_S = 0.5


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    """The packaged model, behind a socket of small buffers."""
    with serving_http(send_timeout_s=TIMEOUT_S) as served:
        for listening in served.server.servers[0].sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        yield served


def asked(served: Served, **fields: Any) -> socket.socket:
    """A connection on which something was asked, and nothing has been read."""
    sent = json.dumps(chat("Hello", **SPOKEN, ignore_eos=True, **fields)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
    host, port = served.address.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    connection.sendall(head.encode() + b"\r\n\r\n" + sent)
    return connection


def num_connections(served: Served) -> int:
    return len(served.server.server_state.connections)


def test_a_client_that_stops_reading_a_stream_counts_as_gone(impatient: Served) -> None:
    aborted = 'antiphon:request_success_total{finished_reason="abort"} '
    before = num_connections(impatient)
    assert aborted + "0.0" in impatient.service.metrics.text().decode()
    with asked(impatient, stream=True, max_units=1500) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: impatient.engine.health().num_running == 1)
        begun_s = time.monotonic()
        wait_until(lambda: num_connections(impatient) == before, "its connection is broken off")
        wait_until(lambda: impatient.service.num_running == 0, "its request has ended")
        assert time.monotonic() - begun_s > TIMEOUT_S / 2
        wait_until(lambda: impatient.engine.health().kv_cache_usage == 0)
        assert aborted + "1.0" in impatient.service.metrics.text().decode()
        data = b""
        while more := connection.recv(65536):
            data += more
        assert b"[DONE]" not in data


def test_a_client_that_does_not_read_a_whole_answer_loses_its_connection(impatient: Served) -> None:
    before = num_connections(impatient)
    with asked(impatient, max_units=50):
        wait_until(lambda: num_connections(impatient) == before + 1)
        wait_until(lambda: num_connections(impatient) == before, "its connection is broken off")
        wait_until(lambda: impatient.service.num_running == 0, "its request has ended")


def test_a_client_that_reads_slowly_gets_all(impatient: Served) -> None:
    """Its answer takes several times the timeout to be read."""
    begun_s, data = time.monotonic(), b""
    with asked(impatient, stream=True, max_units=100) as connection:
        while not data.endswith(b"0\r\n\r\n"):
            time.sleep(0.02)
            more = connection.recv(2048)
            assert more, "it was broken off"
            data += more
    assert time.monotonic() - begun_s > 3 * TIMEOUT_S
    assert b"data: [DONE]" in data
