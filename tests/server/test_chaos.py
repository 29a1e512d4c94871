"""What becomes of a server and its clients when something breaks; docs/serving.md has the table."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from command_line import environment
from http_server import serving_http
from injection import Panic, injected
from server_process import ServerProcess, chat, server_process, wait_until

from antiphon import AsyncEngine, Engine
from antiphon.server.settings import ReferenceSettings

pytestmark = [pytest.mark.slow, pytest.mark.long]

PATH = "/v1/chat/completions"
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
SUM = chat("How much is two plus three?")
HEARD_S = 2.0
"""How soon a waiting client hears of a fault on a machine with nothing else to do."""
FAULT = Path(__file__).parents[1] / "helpers" / "faulty_server.py"


def packaged() -> AsyncEngine:
    return AsyncEngine.from_engine(Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20))


def works(http: httpx2.Client) -> bool:
    """Whether a request succeeds, with the right answer."""
    answer = http.post(PATH, json=SUM)
    if answer.status_code != 200:
        return False
    assert "five" in answer.json()["choices"][0]["message"]["content"].lower()
    return True


def outcome(http: httpx2.Client, body: dict[str, Any]) -> str:
    """How a request ended: status and code of an error, "error" and code in a stream, or a finish reason."""
    answer = http.post(PATH, json=body)
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.json()['error']['code']}"
    if not body.get("stream"):
        return str(answer.json()["choices"][0]["finish_reason"])
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    return f"error {last['error']['code']}" if "error" in last else str(last["choices"][0]["finish_reason"])


# --- faults --------------------------------------------------------------------------------------------

ENGINE_DIES = [
    ("scheduler", "schedule_bottom"),
    ("scheduler", "schedule_text"),
    ("scheduler", "schedule_top"),
    ("scheduler", "complete_text"),
    ("runner", "run_bottom"),
    ("runner", "run_text"),
    ("runner", "run_top"),
]
"""Calls that spoken replies need; whether their faults end requests or the engine is up to it."""


@pytest.mark.parametrize(("owner", "method"), ENGINE_DIES)
@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_pass_that_fails_again_and_again(owner: str, method: str, kind: type[BaseException]) -> None:
    """All that wait are told, and the next request succeeds: of the same engine, or of a fresh one."""
    bodies = [{**chat("Hello"), **SPOKEN, "stream": stream} for stream in (False, True)]
    with serving_http(packaged, restart=True) as served, ThreadPoolExecutor() as clients:
        assert works(served.http)
        first = served.engine
        with injected(getattr(first.engine, owner), method, kind("injected"), call=None) as raised:
            running = [clients.submit(outcome, served.http, body) for body in bodies * 2]
            wait_until(lambda: bool(raised))
            begun_s = time.monotonic()
            ends = [each.result() for each in running]
            assert time.monotonic() - begun_s < 4 * HEARD_S
            assert set(ends) <= {"500 failed", "503 engine_dead", "error failed", "error engine_dead"}, ends
            wait_until(lambda: served.service.keeper.is_alive)
        wait_until(lambda: works(served.http))
        assert (served.engine is first) == (served.service.keeper.num_restarts == 0)


@pytest.mark.parametrize("method", ["_serve", "_batch", "_decode"])
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_speech_that_cannot_be_made_ends_spoken_replies_alone(method: str, kind: type[BaseException]) -> None:
    with serving_http(packaged) as served, ThreadPoolExecutor() as clients:
        body = {**chat("Hello"), **SPOKEN}
        assert outcome(served.http, body) == "stop"
        worker = served.engine.engine.speech_worker
        assert worker is not None
        with injected(worker, method, kind("injected"), call=None) as raised:
            running = [
                clients.submit(outcome, served.http, {**body, "stream": stream})
                for stream in (False, True) * 2
            ]
            for each in running:
                assert each.result() in ("500 failed", "error failed")
            assert raised
            assert works(served.http)
            assert served.http.get("/health").status_code == 200
        wait_until(lambda: outcome(served.http, body) == "stop")


@pytest.mark.parametrize("kind", [MemoryError, Panic])
def test_a_tokenizer_that_fails_ends_its_request_alone(kind: type[BaseException]) -> None:
    with serving_http(packaged) as served:
        inputs = served.engine.engine.inputs
        with injected(inputs, "process", kind("injected"), call=None):
            for stream in (False, True):
                assert outcome(served.http, {**SUM, "stream": stream}) in (
                    "500 internal",
                    "400 invalid_value",
                )
        assert works(served.http)


@pytest.fixture
def fault_file(tmp_path: Path) -> Path:
    return tmp_path / "fault"


@pytest.mark.parametrize("arguments", [(), ("--restart",)])
def test_an_engine_that_dies_ends_the_process_or_is_replaced(
    fault_file: Path, arguments: tuple[str, ...]
) -> None:
    program = (str(FAULT), "antiphon.aio.subscribers.Subscribers.step")
    env = environment() | {"FAULT_FILE": str(fault_file)}
    with server_process(*arguments, program=program, env=env) as server, ThreadPoolExecutor() as clients:
        assert works(server.http)
        bodies = [
            {**chat("Hello"), **SPOKEN, "ignore_eos": True, "stream": stream} for stream in (True, False)
        ]
        running = [clients.submit(outcome, server.http, body) for body in bodies]
        wait_until(lambda: "antiphon:num_requests_running 2.0" in server.http.get("/metrics").text)
        fault_file.touch()
        begun_s = time.monotonic()
        assert [each.result() for each in running] == ["error engine_dead", "503 engine_dead"]
        assert time.monotonic() - begun_s < 4 * HEARD_S
        assert "the engine has failed" in server.err
        if not arguments:
            assert server.ended() == 1
            return
        wait_until(lambda: server.http.get("/ready").status_code == 200)
        assert works(server.http)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


# --- the process ---------------------------------------------------------------------------------------


def lines_of(server: ServerProcess, stack: ExitStack, units: int = 1500) -> Iterator[str]:
    """The lines of a spoken reply that has begun."""
    body = {**chat("Hello"), **SPOKEN, "stream": True, "ignore_eos": True, "max_units": units}
    answer = stack.enter_context(server.http.stream("POST", PATH, json=body))
    lines = answer.iter_lines()
    next(lines)
    return lines


def test_a_server_that_is_killed_breaks_connections_off_and_can_be_started_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with server_process("--port", port) as server, ExitStack() as stack:
        lines = lines_of(server, stack)
        server.signal(signal.SIGKILL)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(lines)
        assert server.ended() == -signal.SIGKILL
        with pytest.raises(httpx2.ConnectError):
            server.http.get("/health")
    with server_process("--port", port) as server:
        assert server.address.endswith(port)
        assert works(server.http)


def test_a_server_that_is_stopped_goes_on_where_it_was() -> None:
    with server_process() as server, ExitStack() as stack:
        lines = lines_of(server, stack, units=100)
        server.signal(signal.SIGSTOP)
        time.sleep(1.0)
        server.signal(signal.SIGCONT)
        told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]"
        assert json.loads(told[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert works(server.http)


def test_logs_on_a_full_disk_cost_only_the_logs() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, server_process(stderr=full) as server:
        for _ in range(3):
            assert works(server.http)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_logs_that_nobody_reads_hold_up_nobody() -> None:
    with server_process(stderr=subprocess.PIPE) as server:
        for _ in range(1500):  # a pipe holds 64 KiB
            server.http.get("/ping")
        assert works(server.http)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_a_full_disk_ends_what_writes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import antiphon.sound.writing

    real: Callable[..., None] = antiphon.sound.writing.write_audio
    full = [True]

    def write(*arguments: Any, **named: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(antiphon.sound.writing, "write_audio", write)
    with serving_http(packaged, reference=ReferenceSettings(0, 0, 0)) as served:
        url = f"{served.sites['codec worker']}/token_to_speech"
        refused = httpx2.post(url, json={"tokens": "<Audio_1>"}, timeout=60)
        assert refused.status_code == 500
        assert refused.json()["detail"].startswith("Error generating speech: ")
        assert works(served.http)
        full.clear()
        assert httpx2.post(url, json={"tokens": "<Audio_1>"}, timeout=60).status_code == 200


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_without_file_descriptors_connections_wait_and_replies_go_on() -> None:
    with server_process(preexec_fn=few_files) as server, ExitStack() as stack:
        lines = lines_of(server, stack, units=150)
        host, port = server.address.removeprefix("http://").split(":")
        taken = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)]
        open_files = Path(f"/proc/{server.process.pid}/fd")
        wait_until(lambda: len(list(open_files.iterdir())) >= 60, "file descriptors run out")
        told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]"
        assert works(server.http), "over a connection that it has"
        for each in taken:
            each.close()
        with httpx2.Client(base_url=server.address, timeout=60) as another:
            assert works(another)
        wait_until(lambda: len(list(open_files.iterdir())) < 40)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
