"""Speech of many requests off the engine's thread: together each is as alone, and none harms another."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda
from speaking import (
    LONG_S,
    POISON,
    STREAMED,
    Fault,
    Gate,
    all_spoken,
    breaks_on_poison,
    raises_once,
    speaks,
    units_of,
)

from antiphon import (
    StreamSchedule,
)
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.errors import AntiphonError, InvalidRequest
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_worker import SpeechWorker


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("num_threads", [1, 3])
def test_many_at_once_are_each_as_alone(worker: SpeechWorker, codec: Codec, num_threads: int) -> None:
    worker.num_threads = num_threads
    spoken = {f"r{i}": units_of(10 + 23 * i, i) for i in range(5)}
    for i, name in enumerate(spoken):
        worker.begin(name, "中文男" if i % 2 else None, i, STREAMED if i < 4 else None)
    for start in range(0, 110, 7):
        for name, units in spoken.items():
            worker.push(name, units[start : start + 7])
    for name in spoken:
        worker.push(name, final=True)
    samples, ends = all_spoken(worker)
    assert ends == dict.fromkeys(spoken)
    for i, (name, units) in enumerate(spoken.items()):
        voice = "中文男" if i % 2 else None
        alone = (
            codec.stream(voice, i).push(units, final=True) if i < 4 else codec.decode([units], voice, [i])[0]
        )
        assert np.array_equal(samples[name], alone), name


@pytest.mark.slow
@pytest.mark.long
def test_batches_as_on_a_gpu(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks about as long as the most urgent one share a batch, and each request gets what it gets alone;
    the source's phase magnifies what a batch changes in the mel."""
    alone = [codec.decode([units_of(20 + 31 * i, i)], seeds=[i])[0] for i in range(4)]
    streamed = [codec.stream(seed=i).push(units_of(20 + 31 * i, i), final=True) for i in range(4)]
    codec.decoder = codec.decoder.batched(torch.float32, None, STREAMED, 4608)
    worker, lengths = SpeechWorker(codec), []
    generate = codec.decoder.flow.generate

    def noted(inputs: list[FlowInput]) -> Any:
        lengths.append([row.noise.shape[1] for row in inputs])
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", noted)
    for i in range(8):
        worker.begin(f"r{i}", None, i % 4, STREAMED if i < 4 else None)
    for i in range(8):
        worker.push(f"r{i}", units_of(20 + 31 * (i % 4), i % 4), final=True)
    samples, ends = all_spoken(worker)
    worker.close()
    assert set(ends.values()) == {None}
    for i, expected in enumerate([*streamed, *alone]):
        np.testing.assert_allclose(samples[f"r{i}"], expected, rtol=0, atol=1e-2)
    assert max(map(len, lengths)) > 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("schedule", [STREAMED, None], ids=["streamed", "whole"])
@pytest.mark.parametrize("max_batch_frames", [0, 1 << 20], ids=["one by one", "in a batch"])
def test_what_fails_fails_alone(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    schedule: StreamSchedule | None,
    max_batch_frames: int,
) -> None:
    codec.max_batch_frames = max_batch_frames
    good, bad = units_of(70, 1), [*units_of(50, 2), POISON, 1]
    breaks_on_poison(codec, monkeypatch)
    for name in ("good", "bad", "fine"):
        worker.begin(name, None, 0, schedule)
        worker.push(name, bad if name == "bad" else good, final=True)
    samples, ends = all_spoken(worker)
    assert ends == {"good": None, "bad": "speech: RuntimeError: out of luck", "fine": None}
    alone = codec.decode([good])[0] if schedule is None else codec.stream().push(good, final=True)
    for name in ("good", "fine"):
        np.testing.assert_allclose(samples[name], alone, rtol=0, atol=1e-2 if max_batch_frames else 0)
    worker.push("bad", [1])  # the engine may not know yet
    assert worker.poll() == []


def test_abort_while_its_chunk_is_made(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(codec, monkeypatch)
    worker.begin("gone", None, 0, STREAMED)
    worker.push("gone", [1] * 60)
    assert gate.is_held.wait(LONG_S)
    worker.abort("gone")
    assert worker.num_speaking == 0
    worker.begin("gone", None, 0, STREAMED)  # the same name again: another request
    worker.push("gone", [2] * 20, final=True)
    gate.is_open.set()
    samples, _ = all_spoken(worker)
    assert gate.order == [1, 2, 2]
    assert np.array_equal(samples["gone"], codec.stream().push([2] * 20, final=True))


@pytest.mark.slow
def test_abort_of_what_was_made(worker: SpeechWorker) -> None:
    worker.begin("gone", None, 0, STREAMED)
    worker.push("gone", [1] * 20, final=True)
    while worker.num_speaking:
        worker.begin("other", None, 0, STREAMED)
        worker.abort("other")
    worker.abort("gone")
    assert worker.poll() == []
    worker.abort("nobody")


def test_nothing_to_say(worker: SpeechWorker) -> None:
    for name, schedule in (("streamed", STREAMED), ("whole", None)):
        worker.begin(name, None, 0, schedule)
        worker.push(name, final=True)
    samples, ends = all_spoken(worker)
    assert ends == {"streamed": None, "whole": None}
    assert not any(map(len, samples.values()))


def test_a_thread_only_while_somebody_speaks(codec: Codec) -> None:
    before = threading.active_count()
    worker = SpeechWorker(codec)
    assert threading.active_count() == before
    with pytest.raises(InvalidRequest, match="voice"):
        worker.begin("r", "nobody", 0, STREAMED)
    assert threading.active_count() == before
    worker.begin("r", None, 0, STREAMED)
    assert threading.active_count() == before + 1
    (thread,) = worker._threads
    worker.push("r", [1] * 3, final=True)
    thread.join(LONG_S)
    assert threading.active_count() == before
    assert [spoken.is_last for spoken in worker.poll()] == [True]
    worker.begin("r", None, 0, STREAMED)
    assert threading.active_count() == before + 1
    worker.close()
    assert threading.active_count() == before
    worker.close()


def test_one_stream_however_often_the_thread_ends(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single user's replies have pauses between them, and each thread once made a stream of its own, which
    holds memory for ever."""
    cuda = FakeCuda(monkeypatch)
    monkeypatch.setattr(codec, "device", torch.device("cuda", 1))
    worker, used = SpeechWorker(codec), []
    made = worker.make

    def make(jobs: list[Job], lane: Any) -> Any:
        used.append((cuda.current.index, cuda.current_stream()))
        return made(jobs, lane)

    monkeypatch.setattr(worker, "make", make)
    for _ in range(3):
        worker.begin("r", None, 0, None)
        (thread,) = worker._threads
        worker.push("r", [1, 2, 3], final=True)
        thread.join(LONG_S)
        assert [spoken.error for spoken in worker.poll()] == [None]
    assert used == [(1, cuda.streams[0])] * 3
    worker.close()


@pytest.mark.slow
def test_units_of_no_request_become_the_codecs_speech(worker: SpeechWorker, codec: Codec) -> None:
    speaks(worker, "beside")
    made = [worker.decode(units_of(12, seed)) for seed in range(3)]
    for seed, result in enumerate(made):
        assert np.array_equal(result.result(60), codec.decode([units_of(12, seed)])[0])
    assert all_spoken(worker)[1] == {"beside": None}
    for wrong in ([], [-1], [10_000]):
        with pytest.raises(InvalidRequest, match="units"):
            worker.decode(wrong)
    with pytest.raises(InvalidRequest, match="voice"):
        worker.decode([1], "nobody")


def test_units_of_no_request_that_fail_fail_alone(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks_on_poison(codec, monkeypatch)
    good, bad = worker.decode([1, 2, 3]), worker.decode([1, POISON])
    with pytest.raises(AntiphonError, match="out of luck"):
        bad.result(60)
    assert len(good.result(60))


def test_a_thread_that_dies_is_noticed_by_whoever_looks_after_it(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises_once(monkeypatch, worker, "make", Fault())
    made = worker.decode([1, 2, 3])
    for _ in range(600):
        worker.look_after()
        if made.done():
            break
        time.sleep(0.05)
    with pytest.raises(AntiphonError, match="speech: "):
        made.result(0)
    assert len(worker.decode([1, 2, 3]).result(60))


def test_units_of_no_request_that_nobody_wants_are_given_up(codec: Codec) -> None:
    worker = SpeechWorker(codec)
    assert worker.decode(units_of(2000, 0)).cancel()
    assert worker.num_speaking == 0
    made = worker.decode(units_of(2000, 0))
    worker.close()
    with pytest.raises(AntiphonError, match="closed"):
        made.result(0)
