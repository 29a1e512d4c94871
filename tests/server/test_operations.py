"""What an operator sees and does: health, readiness, metrics, a full queue, timeouts, clients that leave, and
the end of the server."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from command_line import antiphon
from http_server import Served, serving_http
from prometheus_client.parser import text_string_to_metric_families
from server_process import chat, server_process, wait_until
from serving import Gate, load

from antiphon import AsyncEngine, Engine
from antiphon.server import keeper

LONG: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True}
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
PATH = "/v1/chat/completions"


@contextmanager
def small(engine: Engine, **settings: Any) -> Iterator[Served]:
    with serving_http(lambda: AsyncEngine.from_engine(engine), **settings) as served:
        yield served


def slowed(engine: Engine) -> Engine:
    """An engine of which each pass takes long enough for others to come between."""
    for name in ("run_text", "run_top"):
        real = getattr(engine.runner, name)

        def late(plan: Any, real: Callable[[Any], Any] = real) -> Any:
            time.sleep(0.01)
            return real(plan)

        setattr(engine.runner, name, late)
    return engine


def metrics(http: httpx2.Client) -> dict[str, float]:
    """Each sample by its name, with its labels if it has any."""
    found = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def is_idle(served: Served) -> bool:
    health = served.engine.health()
    return (health.num_running, health.num_waiting, health.kv_cache_usage, served.service.num_running) == (
        0,
        0,
        0.0,
        0,
    )


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


def reason(text: str) -> str | None:
    """The finish reason of a streamed chat that has come to its end."""
    told = events(text)
    assert told[-1] == "[DONE]"
    found: str | None = json.loads(told[-2])["choices"][0]["finish_reason"]
    return found


# --- state ---------------------------------------------------------------------------------------------


def test_a_dead_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 3600.0)  # the server would end
    with small(load()) as served:
        assert [served.http.get(path).status_code for path in ("/health", "/ready", "/ping")] == [200] * 3
        served.engine.close()
        assert [served.http.get(path).status_code for path in ("/health", "/ready", "/ping")] == [
            503,
            503,
            200,
        ]
        assert metrics(served.http)["antiphon:engine_alive"] == 0
        for stream in (False, True):
            answer = served.http.post(PATH, json=chat(stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
            assert answer.headers["retry-after"] == "1"


def test_a_server_that_drains_is_healthy_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine.runner, "run_text")
    with small(engine) as served, ThreadPoolExecutor() as clients:
        running = clients.submit(served.http.post, PATH, json=chat(stream=True, max_tokens=4))
        wait_until(lambda: gate.num_calls > 0)
        served.server.handle_exit(signal.SIGTERM, None)
        served.server.handle_exit(signal.SIGTERM, None)  # `timeout` sends it to the group, too
        wait_until(lambda: served.service.is_draining)
        assert [served.http.get(path).status_code for path in ("/health", "/ready")] == [200, 503]
        refused = served.http.post(PATH, json=chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        gate.open()
        assert reason(running.result().text) in ("stop", "length")


NAMES = """
    num_requests_running num_requests_waiting kv_cache_usage_perc engine_alive engine_restarts
    http_requests_in_flight time_to_first_token_seconds_count inter_token_latency_seconds_count
    e2e_request_latency_seconds_count audio_ttfp_s_count audio_duration_s_sum audio_rtf_count
    audio_underrun_s_count prompt_tokens_total generation_tokens_total audio_frames_total
    prefix_cache_queries_total prefix_cache_hits_total num_preemptions_total speech_stream_completed_total
    speech_stream_aborted_total request_success_total{finished_reason=stop}
    request_queue_wait_s_count stage_gen_time_s_count{stage=prefill} stage_gen_time_s_count{stage=text}
    stage_gen_time_s_count{stage=units} stage_gen_time_s_count{stage=codec}
    request_success_total{finished_reason=length} audio_continuity_ok_total{threshold_ms=100}
    late_compiles_total num_requests_speaking vocoder_restarts
"""


@pytest.mark.slow
def test_metrics_are_those_of_the_requests() -> None:
    with serving_http() as served:
        written = served.http.post(PATH, json=chat("How much is two plus three?")).json()
        cut = served.http.post(PATH, json=chat("How much is two plus three?", max_tokens=1)).json()
        spoken = served.http.post(PATH, json=chat("How much is two plus four?", **SPOKEN)).json()
        body = chat(stream=True, **SPOKEN, ignore_eos=True)
        with served.http.stream("POST", PATH, json=body) as leaving:
            pieces = leaving.iter_bytes()
            next(pieces)
            assert metrics(served.http)["antiphon:http_requests_in_flight"] == 1
            assert metrics(served.http)["antiphon:num_requests_running"] == 1
            assert 0 < metrics(served.http)["antiphon:kv_cache_usage_perc"] <= 1
        wait_until(lambda: is_idle(served))
        found = {name.removeprefix("antiphon:"): value for name, value in metrics(served.http).items()}
    assert set(NAMES.split()) <= found.keys()
    usages = [each["usage"] for each in (written, cut, spoken)]
    assert found["prompt_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
    assert found["generation_tokens_total"] == sum(usage["completion_tokens"] for usage in usages)
    assert found["prefix_cache_queries_total"] == found["prompt_tokens_total"]
    assert found["prefix_cache_hits_total"] == sum(
        usage["prompt_tokens_details"]["cached_tokens"] for usage in usages
    )
    assert found["prefix_cache_hits_total"] > 0, "the second asks what the first did"
    assert found["audio_frames_total"] == usages[2]["completion_tokens_details"]["audio_tokens"] - 1, "a stop"
    assert found["audio_duration_s_sum"] == pytest.approx(found["audio_frames_total"] / 25, abs=0.1)
    assert found["audio_ttfp_s_count"] == found["audio_rtf_count"] == found["audio_underrun_s_count"] == 1
    assert found["time_to_first_token_seconds_count"] == found["e2e_request_latency_seconds_count"] == 3
    assert found["audio_ttfp_s_sum"] >= 0
    assert found["time_to_first_token_seconds_sum"] < found["e2e_request_latency_seconds_sum"]
    assert found["request_queue_wait_s_count"] == 3
    numbers = {"prefill": 3, "text": 3, "units": 1, "codec": 1}
    assert {stage: found[f"stage_gen_time_s_count{{stage={stage}}}"] for stage in numbers} == numbers
    in_turn_s = found["request_queue_wait_s_sum"] + found["stage_gen_time_s_sum{stage=prefill}"]
    assert in_turn_s == pytest.approx(found["time_to_first_token_seconds_sum"])
    assert found["stage_gen_time_s_sum{stage=units}"] < found["e2e_request_latency_seconds_sum"]
    ends = {"stop": 2, "length": 1, "abort": 1}
    assert {name: found[f"request_success_total{{finished_reason={name}}}"] for name in ends} == ends
    assert (found["speech_stream_completed_total"], found["engine_alive"]) == (1, 1)
    for name in ("num_requests_running", "num_requests_waiting", "http_requests_in_flight"):
        assert found[name] == 0, name
    for name in ("kv_cache_usage_perc", "engine_restarts", "num_preemptions_total", "late_compiles_total"):
        assert found[name] == 0, name


# --- load ----------------------------------------------------------------------------------------------


def test_requests_wait_for_their_turn_and_one_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(max_num_seqs=1, max_num_waiting=2)
    gate = Gate(monkeypatch, engine.runner, "run_text")
    body = chat(max_tokens=3, ignore_eos=True)
    with small(engine) as served, ThreadPoolExecutor() as clients:
        running = [clients.submit(served.http.post, PATH, json=body)]
        wait_until(lambda: gate.num_calls > 0)
        for number in (1, 2):
            running.append(clients.submit(served.http.post, PATH, json=body))
            wait_until(lambda number=number: served.engine.health().num_waiting == number)  # type: ignore[misc]
        shown = metrics(served.http)
        assert (shown["antiphon:num_requests_running"], shown["antiphon:num_requests_waiting"]) == (1, 2)
        for stream in (False, True):
            refused = served.http.post(PATH, json={**body, "stream": stream})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "1"
        gate.open()
        answers = [each.result() for each in running]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
        assert served.http.post(PATH, json=body).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_has_its_end(stream: bool) -> None:
    with small(slowed(load()), request_timeout_s=0.3) as served:
        answer = served.http.post(PATH, json=chat(stream=stream, **LONG))
        assert answer.status_code == 200
        if stream:
            assert reason(answer.text) == "length"
        else:
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            assert answer.json()["usage"]["completion_tokens"] < LONG["max_tokens"]
        wait_until(lambda: is_idle(served))


# --- clients that leave --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_served() -> Iterator[Served]:
    """The packaged model, whose requests do not end before their clients have left."""

    def made() -> AsyncEngine:
        return AsyncEngine.from_engine(slowed(Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20)))

    with serving_http(made) as served:
        yield served


LEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (PATH, chat(**LONG)),
    "spoken chat": (PATH, chat(**SPOKEN, ignore_eos=True)),
    "responses": ("/v1/responses", {"input": "Hello " * 50}),
    "speech": ("/v1/audio/speech", {"model": "tiny", "voice": "alloy", "input": "There are shapes. " * 30}),
}


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", LEFT)
def test_a_client_that_goes_away_ends_its_request(slow_served: Served, kind: str, stream: bool) -> None:
    """Its connection is closed, whatever it has read."""
    served = slow_served
    path, body = LEFT[kind]
    if path == "/v1/audio/speech":
        body = {**body, "model": served.service.model_name, "stream_format": "sse" if stream else "audio"}
    else:
        body = {**body, "stream": stream}
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
    host, port = served.address.removeprefix("http://").split(":")
    before = served.service.metrics.text()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + sent)
        wait_until(lambda: served.engine.health().num_running > 0, kind)
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: is_idle(served), f"the end of {kind}")
    assert served.service.metrics.text() != before


# --- the process ---------------------------------------------------------------------------------------

START_S = 5.0
"""How soon the packaged model is served on a machine with nothing else to do."""


@pytest.mark.slow
@pytest.mark.long
def test_a_server_that_is_told_to_end_lets_replies_end() -> None:
    body = chat(**SPOKEN, stream=True, ignore_eos=True, max_units=250)
    body["audio"]["format"] = "pcm16"
    with server_process("--drain-timeout-s", "60") as server:
        assert server.start_s < 4 * START_S
        with server.http.stream("POST", PATH, json=body) as running:
            lines = running.iter_lines()
            text = next(lines) + "\n"
            server.signal(signal.SIGTERM)
            wait_until(lambda: server.http.get("/ready").status_code == 503)
            assert server.http.post(PATH, json=body).status_code == 503
            text += "\n".join(lines)
        assert server.ended() == 0
        assert reason(text) == "length"
        assert text.count('"data":') > 5
        assert "Traceback" not in server.err


@pytest.mark.slow
@pytest.mark.long
def test_after_the_deadline_streams_get_their_last_event() -> None:
    body = chat(**SPOKEN, stream=True, ignore_eos=True, max_units=1500)
    body["audio"]["format"] = "pcm16"
    with server_process("--drain-timeout-s", "0.5") as server, ThreadPoolExecutor() as clients:
        waiting = clients.submit(server.http.post, PATH, json={**body, "stream": False})
        with server.http.stream("POST", PATH, json=body) as running:
            lines = running.iter_lines()
            text = next(lines) + "\n"
            server.signal(signal.SIGINT)
            text += "\n".join(lines)
        assert server.ended() == 0
        assert reason(text) == "length"
        assert waiting.result().json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.slow
@pytest.mark.long
def test_a_second_signal_ends_it_at_once() -> None:
    body = chat(**SPOKEN, stream=True, ignore_eos=True, max_units=1500)
    body["audio"]["format"] = "pcm16"
    with server_process() as server, server.http.stream("POST", PATH, json=body) as running:
        pieces = running.iter_bytes()
        next(pieces)
        server.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in server.err)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.ended() == 128 + signal.SIGTERM
        with pytest.raises(httpx2.RemoteProtocolError):
            list(pieces)


@pytest.mark.slow
@pytest.mark.long
def test_what_cannot_be_served_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = antiphon("serve", "--device", "cpu", "--port", port)
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert f"port {port} of 127.0.0.1: Address already in use" in ended.err
    ended = antiphon("serve", "--port", "0", "--model", "/nowhere")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "/nowhere: expected the folder of a checkpoint" in ended.err
