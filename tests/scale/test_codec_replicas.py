"""Speech of replicas of the codec: a stand-in for Serve's handle, and the real codec behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from antiphon import AudioDelta, Engine, Request, SamplingParams
from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.errors import EngineDead
from antiphon.scale.codec_replica import CodecReplica
from antiphon.scale.codec_replicas import CodecReplicas

SETTINGS = {
    "folder": str(EMBEDDED_CODEC),
    "device": "cpu",
    "dtype": "auto",
    "backend": "torch",
    "enforce_eager": False,
    "num_threads": None,
}
HELLO = Request("What is two plus three?", modalities=("text", "audio"))
PARAMS = SamplingParams(temperature=0.0, seed=1)


class ReplicaDied(Exception):
    """In place of Ray's."""


class Response:
    """As Serve's `DeploymentResponse`."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self, timeout_s: float) -> Any:
        return self._future.result(timeout_s)

    def cancel(self) -> None:
        self._future.cancel()


class Handle:
    """As Serve's `DeploymentHandle`: a replica in an event loop of its own."""

    def __init__(self, replica: CodecReplica) -> None:
        self._replica = replica
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.refuse: Callable[[], None] = lambda: None
        """Called before each answer."""
        self.num_asked = 0
        self.about = SimpleNamespace(remote=lambda: self._call(replica.about()))
        self.answer = SimpleNamespace(remote=self._answer)

    def _call(self, made: Any) -> Response:
        return Response(asyncio.run_coroutine_threadsafe(made, self._loop))

    def _answer(self, message: dict[str, Any], data: bytes) -> Response:
        self.num_asked += 1

        async def answered() -> Any:
            self.refuse()
            return await self._replica.answer(message, data)

        return self._call(answered())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def replica() -> CodecReplica:
    return CodecReplica(SETTINGS)


@pytest.fixture
def handle(replica: CodecReplica, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    exceptions: Any = ModuleType("ray.exceptions")
    exceptions.RayActorError = ReplicaDied
    monkeypatch.setitem(__import__("sys").modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(__import__("sys").modules, "ray.exceptions", exceptions)
    handle = Handle(replica)
    yield handle
    handle.close()


def spoken(engine: Engine) -> Any:
    """The samples as they come while the reply is made."""
    engine.add_request(HELLO, PARAMS)
    pieces = []
    while engine.has_unfinished():
        pieces += [event.samples for event in engine.step() if isinstance(event, AudioDelta)]
    return np.concatenate(pieces)


@pytest.fixture
def engine(handle: Handle) -> Iterator[Engine]:
    def made(codec: Codec) -> CodecReplicas:
        return CodecReplicas(codec, handle, 2)

    engine = Engine(
        codec=EMBEDDED_CODEC, device="cpu", progress=False, kv_cache_bytes=64 << 20, vocoders=made
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected() -> Any:
    engine = Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20)
    try:
        return spoken(engine)
    finally:
        engine.close()


def test_the_samples_are_those_of_an_engine_alone(engine: Engine, handle: Handle, expected: Any) -> None:
    assert np.array_equal(spoken(engine), expected)
    assert handle.num_asked > 1  # chunk by chunk
    whole = engine.generate(HELLO, PARAMS)[0]
    assert whole.audio is not None
    assert len(whole.audio) == len(expected)


def test_a_replica_that_dies_costs_nothing(engine: Engine, handle: Handle, expected: Any) -> None:
    deaths = iter([True])

    def refuse() -> None:
        if next(deaths, False):
            raise ReplicaDied("killed")

    handle.refuse = refuse
    assert np.array_equal(spoken(engine), expected)


def test_what_a_replica_cannot_make_ends_its_request_alone(
    engine: Engine, handle: Handle, expected: Any
) -> None:
    def refuse() -> None:
        raise ReplicaDied("killed")

    handle.refuse = refuse
    completion = engine.generate(HELLO, PARAMS)[0]
    assert completion.finish_reason == "error"
    assert completion.error is not None
    assert "its replica has ended: ReplicaDied: killed" in completion.error
    handle.refuse = lambda: None
    assert np.array_equal(spoken(engine), expected)


def test_an_error_in_the_codec_is_told(handle: Handle) -> None:
    replicas = CodecReplicas(Codec.from_pretrained(EMBEDDED_CODEC, "cpu", speaks=False), handle, 1)
    call = replicas.lane()
    assert call is not None
    assert replicas.lane() is None  # it is the only one
    with pytest.raises(RuntimeError, match="KeyError"):
        call.ask("decode", [({}, b"")])
    replicas.release(call)
    assert replicas.lane() is call


def test_a_codec_that_cannot_be_loaded_ends_the_start(handle: Handle) -> None:
    def fail() -> Response:
        future: Future[Any] = Future()
        future.set_exception(ValueError("no such folder"))
        return Response(future)

    handle.about = SimpleNamespace(remote=fail)
    replicas = CodecReplicas(Codec.from_pretrained(EMBEDDED_CODEC, "cpu", speaks=False), handle, 1)
    with pytest.raises(EngineDead, match="replicas cannot be started: ValueError: no such folder"):
        replicas.wait_ready()


def test_an_aborted_reply_gives_its_replica_free(engine: Engine, handle: Handle, expected: Any) -> None:
    request_id = engine.add_request(HELLO, PARAMS)
    while not handle.num_asked:
        engine.step()
    engine.abort(request_id)
    assert np.array_equal(spoken(engine), expected)
