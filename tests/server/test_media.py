"""Pictures by URL: from allowed hosts alone, whatever these redirect to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from http_server import serving_http
from openai_client import DEMO, client, user
from serving import run

from antiphon.server import media
from antiphon.server.errors import ApiError
from antiphon.server.media import fetch

PICTURE = (DEMO / "shapes.png").read_bytes()


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - of the whole test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name, _, rest = self.path[1:].partition("?")
        if name == "moved":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif name == "slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(100):
                self.wfile.write(b"x: y\r\n")
                time.sleep(0.05)
        elif name == "missing":
            self.send_error(404)
        elif name == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def fetched(url: str, domains: tuple[str, ...] = ("127.0.0.1",), max_bytes: int = 10**6) -> bytes:
    return run(fetch(url, domains, max_bytes, "place"))


def refusal(url: str, domains: tuple[str, ...] = ("127.0.0.1",), max_bytes: int = 10**6) -> str:
    with pytest.raises(ApiError, match=r"^place: ") as refused:
        fetched(url, domains, max_bytes)
    assert (refused.value.status, refused.value.param) == (400, "place")
    return refused.value.message


def test_an_allowed_host_is_asked(port: int) -> None:
    assert fetched(f"http://127.0.0.1:{port}/a.png?b=c#d") == PICTURE
    assert Handler.asked == ["/a.png?b=c"]
    assert fetched(f"http://127.0.0.1:{port}/moved?/a.png") == PICTURE, "a redirect to itself"


def test_others_are_not(port: int) -> None:
    for domains in ((), ("example.com",), ("0.0.1", "7.0.0.1")):
        assert "not fetched from '127.0.0.1'" in refusal(f"http://127.0.0.1:{port}/a.png", domains)
    for url in (
        f"http://localhost:{port}/",
        f"http://127.0.0.1.example.com:{port}/",
        f"http://127.0.0.1@localhost:{port}/",
        f"http://me@127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}/a b",
        f"http://127.0.0.1:{port}/\r\nX: y",
        f"ftp://127.0.0.1:{port}/",
        f"//127.0.0.1:{port}/",
        "http://[127.0.0.1/",
        "http://127.0.0.1:99999/",
        "/etc/passwd",
        "",
    ):
        assert refusal(url)
    assert Handler.asked == []


def test_redirects_go_to_allowed_public_hosts_alone(port: int) -> None:
    assert "localhost" in refusal(f"http://127.0.0.1:{port}/moved?http://localhost:{port}/a.png")
    both = ("127.0.0.1", "localhost")
    assert "not public" in refusal(f"http://127.0.0.1:{port}/moved?http://localhost:{port}/a.png", both)
    assert refusal(f"http://127.0.0.1:{port}/moved?file:///etc/passwd")
    assert "redirects" in refusal(f"http://127.0.0.1:{port}/moved?/moved?/moved?/moved?/moved?/a.png")
    assert "/a.png" not in Handler.asked


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_public_addresses(address: str, is_public: bool) -> None:
    assert media._is_public(address) == is_public


def test_size_time_and_failures(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = f"http://127.0.0.1:{port}"
    assert fetched(f"{base}/a.png", max_bytes=len(PICTURE)) == PICTURE
    assert "at most" in refusal(f"{base}/a.png", max_bytes=len(PICTURE) - 1)
    assert "404" in refusal(f"{base}/missing")
    assert "too early" in refusal(f"{base}/short")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "could not be fetched" in refusal(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert "could not be fetched" in refusal(f"https://127.0.0.1:{port}/"), "it does not speak TLS"
    monkeypatch.setattr(media, "TIMEOUT_S", 0.3)
    begun_s = time.perf_counter()
    assert "could not be fetched" in refusal(f"{base}/slow")
    assert time.perf_counter() - begun_s < 2


def test_slow_hosts_do_not_hold_threads(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "TIMEOUT_S", 0.2)

    async def many() -> None:
        slow = [fetch(f"http://127.0.0.1:{port}/slow", ("127.0.0.1",), 10, "place") for _ in range(16)]
        assert all(isinstance(each, ApiError) for each in await asyncio.gather(*slow, return_exceptions=True))
        monkeypatch.setattr(media, "TIMEOUT_S", 2)
        await fetch(f"http://127.0.0.1:{port}/a.png", ("127.0.0.1",), 10**6, "place")

    run(many())


@pytest.mark.slow
def test_a_chat_about_a_picture_by_its_url(port: int) -> None:
    url: Any = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{port}/shapes.png"}}
    with serving_http(allowed_media_domains=("127.0.0.1",)) as served:
        done = client(served).chat.completions.create(
            model="stream_omni", messages=[user(url, "What is in the picture?")]
        )
        assert "heart" in (done.choices[0].message.content or "")
