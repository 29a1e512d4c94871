"""The released code's controller: its paths, other workers, and who may reach the ports."""

from __future__ import annotations

import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from http_server import Served, serving_http
from reference_client import Answer, ReferenceClient, chat
from serving import load

from antiphon import AsyncEngine
from antiphon.errors import ConfigError, InvalidRequest
from antiphon.server.reference.outgoing import check_url
from antiphon.server.reference.ports import address_for, listening_host
from antiphon.server.reference.workers import Workers, WorkerStatus
from antiphon.server.settings import ReferenceSettings, ServerSettings

ANY_PORTS = ReferenceSettings(0, 0, 0)
OPEN = ReferenceSettings(0, 0, 0, allow_external_workers=True)


def small() -> AsyncEngine:
    return AsyncEngine.from_engine(load())


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving_http(small, reference=OPEN, served_model_name="omni") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[ReferenceClient]:
    with ReferenceClient(server.sites["controller"]) as client:
        yield client


class Worker(BaseHTTPRequestHandler):
    """A worker of another process, as far as the controller can tell."""

    behaviour = "answers"
    bodies: queue.Queue[bytes]
    left: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/worker_get_status" and self.behaviour != "mute":
            return self.answer(json.dumps({"model_names": ["other"], "speed": 2, "queue_length": 3}).encode())
        self.bodies.put(body)
        if self.behaviour == "redirects":
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.behaviour == "streams on":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b'{"text": "x", "error_code": 0}\0')
                    time.sleep(0.01)
            except OSError:
                self.left.set()
            return None
        prompt = json.loads(body)["prompt"]
        told = json.dumps({"text": f"{prompt}far away", "error_code": 0}).encode() + b"\0"
        return self.answer({"breaks off": told + b'{"text', "is silent": b""}.get(self.behaviour, told))

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@contextmanager
def other_worker(behaviour: str = "answers") -> Iterator[tuple[str, type[Worker]]]:
    kind = type(
        "Kind", (Worker,), {"behaviour": behaviour, "bodies": queue.Queue(), "left": threading.Event()}
    )
    http = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", kind
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def registered(client: ReferenceClient) -> Iterator[Any]:
    """Registers workers, and has them forgotten at the end."""
    with other_worker() as (url, kind):
        assert client.post("/register_worker", {"worker_name": url, "check_heart_beat": True}) is None
        yield url, kind
    client.post("/refresh_all_workers")
    assert client.post("/list_models") == {"models": ["omni"]}


def test_the_built_in_worker_is_always_there(server: Served, client: ReferenceClient) -> None:
    worker = server.sites["model worker"]
    assert client.post("/list_models") == {"models": ["omni"]}
    assert client.post("/get_worker_address", {"model": "omni"}) == {"address": worker}
    assert client.post("/get_worker_address", {"model": "nobody"}) == {"address": ""}
    assert client.post("/refresh_all_workers") is None
    assert client.post("/receive_heart_beat", {"worker_name": worker, "queue_length": 1}) == {"exist": True}
    assert client.post("/register_worker", {"worker_name": worker, "check_heart_beat": True}) is None
    assert client.post("/worker_get_status") == {"model_names": ["omni"], "speed": 1, "queue_length": 0}
    with ReferenceClient(worker) as direct:
        assert direct.post("/worker_get_status") == {"model_names": ["omni"], "speed": 1, "queue_length": 0}


def test_a_model_of_nobody_is_error_2(client: ReferenceClient) -> None:
    for body in ({"model": "nobody", "prompt": "x"}, {"prompt": "x"}):
        with client.stream(body) as messages:
            [told] = list(messages)
        assert (told["error_code"], told["text"][:9]) == (2, "**NETWORK")


def test_a_body_that_is_wrong_is_error_1_or_400(client: ReferenceClient) -> None:
    for body in (b"", b"[]", b"{", b'{"model": 1}', b"\xff"):
        with client.stream(body) as messages:
            [told] = list(messages)
        assert told["error_code"] == 1
    for path in ("/register_worker", "/receive_heart_beat", "/get_worker_address"):
        for body in (b"", b"[]", b'{"worker_name": 1, "model": 1}'):
            answer = client.http.post(path, content=body)
            assert answer.status_code == 400
            assert answer.json()["detail"]


def test_another_worker_registers_and_is_relayed_to(client: ReferenceClient, registered: Any) -> None:
    url, kind = registered
    assert client.post("/list_models") == {"models": ["omni", "other"]}
    assert client.post("/get_worker_address", {"model": "other"}) == {"address": url}
    assert client.post("/worker_get_status") == {
        "model_names": ["omni", "other"],
        "speed": 3,
        "queue_length": 3,
    }
    body = {"model": "other", "prompt": chat("Hello"), "extra": [1]}
    with client.stream(body) as messages:
        answer = Answer(body["prompt"], list(messages))  # type: ignore[arg-type]
    assert answer.text == "far away"
    assert json.loads(kind.bodies.get_nowait()) == body
    assert client.post("/receive_heart_beat", {"worker_name": url, "queue_length": 9}) == {"exist": True}
    assert client.post("/worker_get_status")["queue_length"] == 9
    assert client.post("/receive_heart_beat", {"worker_name": url + "0", "queue_length": 9}) == {
        "exist": False
    }


def test_the_least_loaded_worker_of_a_model_is_asked(client: ReferenceClient, registered: Any) -> None:
    url, _ = registered

    def queued(length: int, speed: float = 1.0) -> str:
        status = {"model_names": ["omni"], "speed": speed, "queue_length": length}
        client.post(
            "/register_worker", {"worker_name": url, "check_heart_beat": True, "worker_status": status}
        )
        return str(client.post("/get_worker_address", {"model": "omni"})["address"])

    assert queued(5) != url
    assert queued(0) != url, "the built-in one, where it makes no difference"
    status = {"model_names": ["third"], "speed": 4, "queue_length": 6}
    with other_worker() as (second, _):
        for name, length in ((url, 2), (second, 6)):
            told = status | {"queue_length": length, "speed": 1 if name == url else 4}
            client.post(
                "/register_worker", {"worker_name": name, "check_heart_beat": True, "worker_status": told}
            )
        assert client.post("/get_worker_address", {"model": "third"}) == {"address": second}


@pytest.mark.parametrize("behaviour", ["breaks off", "is silent", "redirects"])
def test_a_worker_that_is_lost_is_error_3(client: ReferenceClient, behaviour: str) -> None:
    with other_worker(behaviour) as (url, _):
        client.post("/register_worker", {"worker_name": url, "check_heart_beat": True})
        with client.stream({"model": "other", "prompt": chat("Hello")}) as messages:
            told = list(messages)
    with client.stream({"model": "other", "prompt": chat("Hello")}) as messages:
        told += list(messages)  # it is not there any more
    client.post("/refresh_all_workers")
    assert [message["error_code"] for message in told] == [0, 3, 3][-len(told) :]
    assert len(told) == (3 if behaviour == "breaks off" else 2)


def test_a_client_that_leaves_ends_what_is_relayed(server: Served, client: ReferenceClient) -> None:
    with other_worker("streams on") as (url, kind):
        client.post("/register_worker", {"worker_name": url, "check_heart_beat": True})
        with client.stream({"model": "other", "prompt": chat("Hello")}) as messages:
            next(messages)
        assert kind.left.wait(10)
    client.post("/refresh_all_workers")


@pytest.mark.parametrize(
    "url",
    ["", "localhost:1", "ftp://a", "file:///etc/passwd", "http://", "http://a:99999", "http://a b", "http://u@a",
     "http://a/?x", "http://" + "a" * 2000],
)  # fmt: skip
def test_what_is_no_url_of_a_worker(url: str) -> None:
    with pytest.raises(InvalidRequest, match="worker_name"):
        check_url(url)


@pytest.mark.slow
def test_nobody_registers_where_workers_are_not_allowed() -> None:
    with (
        other_worker() as (url, kind),
        serving_http(small, reference=ANY_PORTS) as served,
        ReferenceClient(served.sites["controller"]) as client,
    ):
        for status in (None, {"model_names": ["other"], "speed": 1, "queue_length": 0}):
            body = {"worker_name": url, "check_heart_beat": True, "worker_status": status}
            answer = client.http.post("/register_worker", json=body)
            assert answer.status_code == 403
            assert "--allow-external-workers" in answer.json()["detail"]
        assert client.post("/receive_heart_beat", {"worker_name": url, "queue_length": 0}) == {"exist": False}
        with client.stream({"model": "other", "prompt": "x"}) as messages:
            assert [message["error_code"] for message in messages] == [2]
        assert kind.bodies.empty()


def test_silent_workers_are_forgotten_after_30_s() -> None:
    now_s = [0.0]
    workers = Workers(lambda: now_s[0])
    status = WorkerStatus(model_names=["m"])
    for name in ("silent", "beating", "forever"):
        workers.register(name, status, expires=name != "forever")
    now_s[0] = 20.0
    assert workers.hear("beating", 7)
    now_s[0] = 31.0
    assert [worker.url for worker in workers.all()] == ["beating", "forever"]
    assert not workers.hear("silent", 0)
    assert workers.least_loaded("m") is not None
    now_s[0] = 51.0
    assert [worker.url for worker in workers.all()] == ["forever"]


def test_only_so_many_workers_register() -> None:
    workers = Workers()
    for index in range(100):
        workers.register(str(index), WorkerStatus(model_names=["m"]), expires=True)
    workers.register("0", WorkerStatus(model_names=["m"]), expires=True)
    with pytest.raises(InvalidRequest, match="at most 100"):
        workers.register("100", WorkerStatus(model_names=["m"]), expires=True)


PLACES = (
    ("controller", "/worker_generate_stream"),
    ("controller", "/register_worker"),
    ("controller", "/get_worker_address"),
    ("model worker", "/worker_generate_stream"),
    ("codec worker", "/token_to_speech"),
    ("codec worker", "/speech_to_token"),
)


@pytest.mark.parametrize(("name", "path"), PLACES)
def test_clients_that_leave_within_their_body_or_tell_no_host(
    server: Served, caplog: pytest.LogCaptureFixture, name: str, path: str
) -> None:
    """Neither leaves a traceback behind."""
    host, _, port = server.sites[name].removeprefix("http://").partition(":")
    head = f"POST {path} HTTP/1.1\r\nHost: [\r\n"
    body = json.dumps({"model": "omni", "worker_name": "http://127.0.0.1:1"})
    with socket.create_connection((host, int(port)), timeout=10) as leaving:
        leaving.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
    with socket.create_connection((host, int(port)), timeout=10) as strange:
        strange.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert strange.recv(100).startswith(b"HTTP/1.1 ")
    with ReferenceClient(server.sites["controller"]) as client:
        assert client.post("/list_models") == {"models": ["omni"]}
    assert "Traceback" not in caplog.text
    assert "Exception in" not in caplog.text


# --- who may reach the ports ----------------------------------------------------------------------


@pytest.mark.slow
def test_keys_hold_for_these_ports_too() -> None:
    with serving_http(small, reference=ANY_PORTS, api_keys=("secret",)) as served:
        for name, path in (
            ("controller", "/list_models"),
            ("model worker", "/worker_get_status"),
            ("codec worker", "/token_to_speech"),
        ):
            with ReferenceClient(served.sites[name]) as stranger:
                assert stranger.http.post(path).status_code == 401
            with ReferenceClient(served.sites[name], "secret") as friend:
                assert friend.http.post(path).status_code != 401


def test_without_keys_only_this_machine_is_answered() -> None:
    def host(given: str, *keys: str) -> str:
        return listening_host(ServerSettings(host=given, api_keys=keys))

    for given in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert host(given) == host(given, "secret") == given
    for given in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert host(given) == "127.0.0.1"
        assert host(given, "secret") == given


def test_the_workers_address_is_one_that_the_client_can_reach() -> None:
    assert address_for("http://127.0.0.1:40000", "box") == "http://127.0.0.1:40000"
    assert address_for("http://0.0.0.0:40000", "box") == "http://box:40000"
    assert address_for("http://[::]:40000", "10.0.0.1") == "http://10.0.0.1:40000"
    assert address_for("http://0.0.0.0:40000", "::1") == "http://[::1]:40000"
    assert address_for("http://0.0.0.0:40000", None) == "http://0.0.0.0:40000"


@pytest.mark.slow
def test_bodies_that_are_too_large_are_refused_whole_or_in_pieces() -> None:
    with serving_http(small, reference=ANY_PORTS, max_body_bytes=1000) as served:
        for name, path in (
            ("controller", "/worker_generate_stream"),
            ("model worker", "/worker_generate_stream"),
            ("codec worker", "/token_to_speech"),
        ):
            with ReferenceClient(served.sites[name]) as client:
                for body in (b"x" * 1001, iter([b"x" * 600] * 2)):
                    assert client.http.post(path, content=body).status_code == 413


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    def never() -> AsyncEngine:
        raise AssertionError("it is loaded")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        reference = ReferenceSettings(0, taken.getsockname()[1], 0)
        with pytest.raises(ConfigError, match="codec worker: port"), serving_http(never, reference=reference):
            pass


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="worker_port: expected 0 to 65535"):
        ServerSettings(reference=ReferenceSettings(0, 0, 70000))


@pytest.mark.slow
def test_draining_refuses_on_all_ports_and_lets_what_runs_end() -> None:
    with (
        serving_http(small, reference=ANY_PORTS) as served,
        ReferenceClient(served.sites["model worker"]) as client,
        ReferenceClient(served.sites["model worker"]) as late,
    ):
        body = {"prompt": chat("<Audio_1>"), "max_new_tokens": 200, "temperature": 1.0}
        with client.stream(body) as messages:
            first = next(messages)
            assert served.server._loop is not None
            served.server._loop.call_soon_threadsafe(served.server._end, signal.SIGTERM)
            while not served.service.is_draining:
                time.sleep(0.001)
            with late.stream(body) as refused:
                [told] = list(refused)
            answer = Answer(str(body["prompt"]), [first, *messages])
    assert told["error_code"] == 1
    assert "shutting down" in told["detail"]
    assert answer.error_code == 0
