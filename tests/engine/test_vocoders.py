"""`vocoder_workers`: the same replies to the last bit, and one retry for those whose process dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from speaking import wait_until

from antiphon import (
    AudioDelta,
    CheckpointError,
    Completion,
    ConfigError,
    Engine,
    Finished,
    Request,
    SamplingParams,
    Units,
)
from antiphon.codec import Codec
from antiphon.codec.apart import VocoderDied, VocoderProcess, Vocoders
from antiphon.engine.vocoder_place import VocoderPlace

PARAMS = [SamplingParams(max_units=20 + 25 * i, ignore_eos=True, temperature=0.8, seed=i) for i in range(5)]
VOICES = [None, "中文男", None, "中文男", None]

Reply = tuple[list[Any], Completion]


def speaking_engine(**settings: Any) -> Engine:
    return Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, **settings)


def add_all(engine: Engine) -> None:
    for i, (params, voice) in enumerate(zip(PARAMS, VOICES, strict=True)):
        request = Request(Units([i, i + 1, 7]), ("text", "audio"), voice=voice, request_id=f"r{i}")
        engine.add_request(request, params)


def replies(engine: Engine) -> dict[str, Reply]:
    pieces: dict[str, list[Any]] = {}
    done: dict[str, Completion] = {}
    while engine.has_unfinished():
        for event in engine.step():
            if isinstance(event, AudioDelta):
                pieces.setdefault(event.request_id, []).append(event.samples)
            elif isinstance(event, Finished):
                done[event.request_id] = event.completion
    return {name: (pieces.get(name, []), one) for name, one in done.items()}


def assert_same(found: dict[str, Reply], expected: dict[str, Reply]) -> None:
    assert set(found) == set(expected)
    for name, (pieces, completion) in expected.items():
        assert found[name][1].error is None and completion.error is None
        assert found[name][1].unit_ids == completion.unit_ids
        assert np.array_equal(np.concatenate(found[name][0]), np.concatenate(pieces)), name


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Reply]:
    with speaking_engine() as engine:
        add_all(engine)
        return replies(engine)


@pytest.fixture(scope="module")
def shared() -> Iterator[Engine]:
    with speaking_engine(vocoder_workers=2) as engine:
        yield engine


@pytest.fixture
def engine(shared: Engine) -> Engine:
    wait_until(lambda: vocoders_of(shared).num_rows == [0, 0])
    return shared


def vocoders_of(engine: Engine) -> Vocoders:
    assert engine.speech_worker is not None and isinstance(engine.speech_worker.vocoders, Vocoders)
    return engine.speech_worker.vocoders


def killed(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """The process that is asked these times, counted from 1, is killed before it can answer."""
    ask, lock, count = VocoderProcess.ask, threading.Lock(), [0]

    def asked(self: VocoderProcess, what: str, rows: Any) -> Any:
        with lock:
            count[0] += 1
            is_hit = count[0] in calls
        if is_hit:
            send = self._send

            def send_and_kill(message: Any, data: bytes = b"") -> None:
                os.kill(self.pid, signal.SIGSTOP)
                send(message, data)
                os.kill(self.pid, signal.SIGKILL)

            self._send = send_and_kill  # type: ignore[method-assign]
        return ask(self, what, rows)

    monkeypatch.setattr(VocoderProcess, "ask", asked)


# --- the same -------------------------------------------------------------------------------------


def test_streamed_replies_are_the_same(engine: Engine, undisturbed: dict[str, Reply]) -> None:
    add_all(engine)
    assert_same(replies(engine), undisturbed)


def test_one_process_says_the_same(undisturbed: dict[str, Reply]) -> None:
    with speaking_engine(vocoder_workers=1, vocoder_device="cpu") as engine:
        add_all(engine)
        assert_same(replies(engine), undisturbed)


def test_whole_replies_and_other_units_are_the_same(engine: Engine) -> None:
    requests = [Request(Units([i, 3]), ("text", "audio")) for i in range(3)]
    assert engine.speech_worker is not None
    made = engine.generate(requests, PARAMS[:3])
    codec = Codec.from_pretrained(RANDOM_CODEC, "cpu")
    for i, one in enumerate(made):
        assert one.audio is not None
        assert np.array_equal(one.audio, codec.decode([one.units], seeds=[i])[0])
    beside = engine.speech_worker.decode([5, 6, 7, 8], "中文男").result(60)
    assert np.array_equal(beside, codec.decode([[5, 6, 7, 8]], "中文男")[0])
    assert engine.codec is not None
    assert np.array_equal(engine.codec.decode([[5, 6, 7]])[0], codec.decode([[5, 6, 7]])[0])


# --- deaths ---------------------------------------------------------------------------------------


def test_deaths_cost_nobody_anything(
    engine: Engine, undisturbed: dict[str, Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vocoders_of(engine).num_restarts
    killed(monkeypatch, 2, 7)
    add_all(engine)
    assert_same(replies(engine), undisturbed)
    wait_until(lambda: vocoders_of(engine).num_restarts == before + 2)
    assert engine.speech_worker is not None and engine.speech_worker.error is None


def test_a_request_that_they_die_of_ends_alone(
    engine: Engine, undisturbed: dict[str, Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = VocoderProcess.ask

    def asked(self: VocoderProcess, what: str, rows: Any) -> Any:
        if any(row["seed"] == 2 for row, _ in rows):
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()
            raise VocoderDied("its process was ended by SIGKILL")
        return ask(self, what, rows)

    monkeypatch.setattr(VocoderProcess, "ask", asked)
    add_all(engine)
    found = replies(engine)
    _, failed = found.pop("r2")
    assert failed.finish_reason == "error"
    assert failed.error == (
        "speech: a vocoder's process died of it 2 times: its process was ended by SIGKILL"
    )
    assert_same(found, {name: reply for name, reply in undisturbed.items() if name != "r2"})


def test_an_abort_leaves_the_processes_alive(engine: Engine, undisturbed: dict[str, Reply]) -> None:
    pids = vocoders_of(engine).pids
    long = SamplingParams(max_units=400, ignore_eos=True)
    engine.add_request(Request(Units([1]), ("text", "audio"), request_id="gone"), long)
    while not any(vocoders_of(engine).num_rows):
        engine.step()
    engine.abort("gone")
    assert replies(engine)["gone"][1].finish_reason == "abort"
    add_all(engine)
    assert_same(replies(engine), undisturbed)
    assert vocoders_of(engine).pids == pids


def test_closing_ends_them() -> None:
    engine = speaking_engine(vocoder_workers=1)
    vocoders = vocoders_of(engine)
    add_all(engine)
    while not any(vocoders.num_rows):
        engine.step()
    engine.close()
    assert vocoders.pids == []


# --- settings -------------------------------------------------------------------------------------


def test_devices_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    import torch

    made = VocoderPlace.parse(3, "cuda:1, cuda:2", "folder", torch.device("cpu"))
    assert (made.num_workers, [str(place) for place in made.devices]) == (3, ["cuda:1", "cuda:2"])
    fourth = torch.device("cuda", 3)
    assert VocoderPlace.parse(2, None, "folder", fourth).devices == (fourth,)


@pytest.mark.parametrize(
    ("workers", "device", "message"),
    [
        (0, "meta", "vocoder_device: expected a device of this machine"),
        (0, "cpu,cpu", "vocoder_device: expected at most 1, one for each of the vocoder_workers"),
        (2, "cpu,cpu,cpu", "vocoder_device: expected at most 2, one for each"),
        (2, 3, "vocoder_device: expected cpu, cuda, cuda:1 ..., got int"),
        (2, "", "vocoder_device: expected auto, cpu or cuda, got ''"),
    ],
)
def test_wrong_devices(workers: int, device: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        speaking_engine(vocoder_workers=workers, vocoder_device=device)


def test_a_codec_that_is_loaded_already() -> None:
    codec = Codec.from_pretrained(RANDOM_CODEC, "cpu")
    with pytest.raises(ConfigError, match=r"^vocoder_workers: expected a codec given"):
        Engine(RANDOM_MODEL, codec=codec, device="cpu", vocoder_workers=2)


def test_an_engine_without_its_model_leaves_none(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Vocoders] = []
    begin = Vocoders.__init__

    def noted(self: Vocoders, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        made.append(self)

    def broken(*_: Any, **__: Any) -> None:
        raise CheckpointError("no weights")

    monkeypatch.setattr(Vocoders, "__init__", noted)
    monkeypatch.setattr("antiphon.engine.loading.load_weights", broken)
    with pytest.raises(CheckpointError, match="no weights"):
        speaking_engine(vocoder_workers=1)
    [vocoders] = made
    assert vocoders.pids == []
