"""Speech of many requests off the engine's thread: together each is as alone, and none harms another."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC
from fake_cuda import FakeCuda

from antiphon import (
    AudioDelta,
    Engine,
    Event,
    Finished,
    Request,
    SamplingParams,
    StreamSchedule,
    UnitDelta,
    Units,
)
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.hift.stream import HiftStream
from antiphon.codec.stream import advance
from antiphon.errors import AntiphonError, InvalidRequest
from antiphon.outputs import speech_worker
from antiphon.outputs.pacing import Pace
from antiphon.outputs.request_output import OutputState
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_worker import SpeechWorker

STREAMED = StreamSchedule()
LONG_S = 60.0
POISON = 63
"""A unit that breaks the flow in tests that say so."""


@pytest.fixture
def codec() -> Codec:
    """One of its own for each test: some break it."""
    return Codec.from_pretrained(RANDOM_CODEC, device="cpu")


@pytest.fixture
def worker(codec: Codec) -> Iterator[SpeechWorker]:
    worker = SpeechWorker(codec)
    yield worker
    worker.close()


def units_of(count: int, seed: int) -> list[int]:
    units: list[int] = np.random.default_rng(seed).integers(0, POISON, count).tolist()
    return units


def all_spoken(worker: SpeechWorker) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str | None]]:
    """Samples of each request until nothing is open, and what it ended with."""
    pieces: dict[str, list[np.ndarray[Any, Any]]] = {}
    ends: dict[str, str | None] = {}
    while True:
        is_done = worker.num_speaking == 0
        for spoken in worker.poll(0.05):
            assert spoken.request_id not in ends, "nothing follows the end"
            pieces.setdefault(spoken.request_id, []).append(spoken.samples)
            if spoken.is_last:
                ends[spoken.request_id] = spoken.error
        if is_done:
            return {name: np.concatenate(parts) for name, parts in pieces.items()}, ends


def wait_until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG_S
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def breaks_on_poison(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = codec.decoder.flow.generate

    def breaking(inputs: list[FlowInput]) -> Any:
        if any(POISON in row.units.tolist() for row in inputs):
            raise RuntimeError("out of luck")
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", breaking)


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


class Gate:
    """Holds the speech thread before each chunk, and notes whose chunk it was (by its first unit)."""

    def __init__(self, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[int] = []
        self.is_held = threading.Event()
        self.is_open = threading.Event()
        generate = codec.decoder.flow.generate

        def held(inputs: list[FlowInput]) -> Any:
            self.order += [int(row.units[0]) for row in inputs]
            self.is_held.set()
            assert self.is_open.wait(LONG_S)
            return generate(inputs)

        monkeypatch.setattr(codec.decoder.flow, "generate", held)


class Clock:
    """Stands in for `time` in the worker: its seconds pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("waited_s", "order"), [(0.0, [1, 1, 2]), (0.1, [1, 2, 1])], ids=["at once", "later"]
)
def test_whose_sound_ends_first_is_served_first(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    waited_s: float,
    order: list[int],
) -> None:
    """The first chunk is 0.26 s of sound. A request that has none yet may wait 0.3 s: first comes the one
    whose sound runs out, unless the other one has waited for a while."""
    worker.num_threads = 1
    clock = Clock()
    monkeypatch.setattr(speech_worker, "time", clock)
    gate = Gate(codec, monkeypatch)
    worker.begin("long", None, 0, STREAMED)
    worker.push("long", [1] * 100)
    assert gate.is_held.wait(LONG_S)
    worker.begin("new", None, 0, STREAMED)
    worker.push("new", [2] * 20)
    clock.now_s += waited_s
    gate.is_open.set()
    worker.push("long", final=True)
    worker.push("new", final=True)
    all_spoken(worker)
    assert gate.order[:3] == order


@pytest.mark.parametrize(
    ("gapless", "frames_per_s", "order"),
    [(False, 300.0, "ab"), (True, 300.0, "a"), (True, 1200.0, "ab"), (True, None, "ab")],
    ids=["not asked for", "two are too many", "two are few", "at an unknown rate"],
)
def test_sound_that_would_have_gaps_is_held_back(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    gapless: bool,
    frames_per_s: float | None,
    order: str,
) -> None:
    """A second of sound is 86 frames, and those of its context: one listener can be kept going at 300 frames
    a second, two cannot. Where the second one has to wait, its sound begins when the first one has all of
    its own. No time passes, so nobody's sound runs out."""
    worker.num_threads = 1
    monkeypatch.setattr(speech_worker, "time", Clock())
    monkeypatch.setattr(Pace, "frames_per_s", frames_per_s)
    told: list[str] = []
    for name in "ab":
        worker.begin(name, None, 0, STREAMED, gapless=gapless)
        worker.push(name, units_of(20, 1))
        while len(told) < len(order) and name not in told:
            told += [spoken.request_id for spoken in worker.poll(LONG_S)]
    assert "".join(told) == order
    if order == "a":  # it is made while there is time
        wait_until(lambda: bool(worker._jobs["b"].held))
    worker.push("a", units_of(30, 1)[20:], final=True)
    if order == "a":
        while "b" not in told:
            told += [spoken.request_id for spoken in worker.poll(LONG_S)]
        assert told[-2:] == ["a", "b"]
    worker.push("b", units_of(30, 1)[20:], final=True)
    all_spoken(worker)


def test_who_is_alone_does_not_wait(worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that waited for another that is then aborted."""
    monkeypatch.setattr(Pace, "frames_per_s", 1.0)
    worker.begin("a", None, 0, STREAMED, gapless=True)
    worker.push("a", units_of(20, 1))
    assert [spoken.request_id for spoken in worker.poll(LONG_S)] == ["a"]
    worker.begin("b", None, 0, STREAMED, gapless=True)
    worker.push("b", units_of(20, 2))
    wait_until(lambda: bool(worker._jobs["b"].held))
    assert worker.poll() == []
    worker.abort("a")
    assert [spoken.request_id for spoken in worker.poll()] == ["b"]


def test_held_sound_comes_before_an_error(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does where nothing is held back: what was made is told."""
    breaks_on_poison(codec, monkeypatch)
    monkeypatch.setattr(Pace, "frames_per_s", 1.0)
    worker.begin("a", None, 0, STREAMED)
    worker.push("a", units_of(20, 1))
    worker.begin("b", None, 0, STREAMED, gapless=True)
    units = units_of(20, 2)
    worker.push("b", units)
    wait_until(lambda: bool(worker._jobs["b"].held))
    worker.push("b", [POISON] * 40, final=True)
    wait_until(lambda: "b" not in worker._jobs)
    (told,) = [spoken for spoken in worker.poll() if spoken.request_id == "b"]
    assert told.error == "speech: RuntimeError: out of luck"
    assert np.array_equal(told.samples, codec.stream().push(units))


def test_held_sound_is_the_same(worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "frames_per_s", 100.0)
    spoken = {name: units_of(40 + 20 * i, i) for i, name in enumerate("abcd")}
    for name, units in spoken.items():
        worker.begin(name, None, 0, STREAMED, gapless=True)
        worker.push(name, units, final=True)
    samples, ends = all_spoken(worker)
    assert ends == dict.fromkeys(spoken)
    for name, units in spoken.items():
        assert np.array_equal(samples[name], codec.stream().push(units, final=True)), name


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

    def make(jobs: list[Job]) -> Any:
        used.append((cuda.current.index, cuda.current_stream()))
        return made(jobs)

    monkeypatch.setattr(worker, "make", make)
    for _ in range(3):
        worker.begin("r", None, 0, None)
        (thread,) = worker._threads
        worker.push("r", [1, 2, 3], final=True)
        thread.join(LONG_S)
        assert [spoken.error for spoken in worker.poll()] == [None]
    assert used == [(1, cuda.streams[0])] * 3
    worker.close()


def test_a_dropped_engine_leaves_no_thread(codec: Codec) -> None:
    from checkpoints import RANDOM_MODEL

    engine = Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False)
    engine.add_request(SPEAKS)
    worker = engine.speech_worker
    assert worker is not None
    (thread,) = worker._threads
    del engine
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()


# --- faults -------------------------------------------------------------------------------------------


class Fault(BaseException):
    """Caught by nothing that catches what is usual."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def raises_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException, at: int = 1
) -> None:
    real, count = getattr(owner, name), itertools.count(1)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if next(count) == at:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, wrapped)


def speaks(worker: SpeechWorker, *names: str, schedule: StreamSchedule | None = STREAMED) -> None:
    for name in names:
        worker.begin(name, None, 0, schedule)
        worker.push(name, units_of(60, 1), final=True)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "error", [MemoryError(), SystemExit(1), Fault()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize(("at", "num_threads"), [(1, 1), (1, 2), (3, 2)])
def test_a_thread_that_dies_between_batches_harms_nobody(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    at: int,
    num_threads: int,
) -> None:
    """It was never missed: who spoke then or later waited for ever, and health said that all was well."""
    worker.num_threads = num_threads
    raises_once(monkeypatch, worker, "_batch", error, at)
    speaks(worker, "a", "b")
    samples, ends = all_spoken(worker)
    assert ends == {"a": None, "b": None}
    assert np.array_equal(samples["a"], codec.stream().push(units_of(60, 1), final=True))
    assert [record.message for record in caplog.records] == ["the speech thread has died"]
    assert worker.error is None, "speech was made since"


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_thread_that_dies_takes_what_it_had_in_hand(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    worker.num_threads = num_threads
    raises_once(monkeypatch, worker, "make", Fault())
    speaks(worker, "a", "b")
    _, ends = all_spoken(worker)
    failed = [name for name, end in ends.items() if end is not None]
    assert len(failed) == 1
    assert ends[failed[0]] == "speech: Fault: its message cannot be printed"
    speaks(worker, "a")
    assert all_spoken(worker)[1] == {"a": None}


@pytest.mark.parametrize("schedule", [STREAMED, None], ids=["streamed", "whole"])
def test_no_kind_of_error_in_a_decode_ends_the_thread(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch, schedule: StreamSchedule | None
) -> None:
    raises_once(monkeypatch, codec.decoder.flow, "generate", SystemExit("enough"))
    speaks(worker, "a", schedule=schedule)
    speaks(worker, "b", schedule=schedule)
    _, ends = all_spoken(worker)
    assert sorted(ends.values(), key=str) == [None, "speech: SystemExit: enough"]


@pytest.mark.parametrize(("owner", "name"), [(SpeechWorker, "_tell"), (Job, "is_ready")])
def test_what_fails_beside_a_decode_ends_its_own_request(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    real, failed = getattr(owner, name), set[str]()

    def failing(*arguments: Any) -> Any:
        job = next(each for each in arguments if isinstance(each, Job))
        result = real(*arguments)  # it has happened: to do it again would lose or double something
        if job.request_id == "bad" and not failed:
            failed.add(job.request_id)
            raise MemoryError
        return result

    monkeypatch.setattr(owner, name, failing)
    speaks(worker, "good", "bad", "fine")
    assert all_spoken(worker)[1] == {"good": None, "bad": "speech: MemoryError", "fine": None}


@pytest.mark.parametrize("num_threads", [1, 2])
def test_where_every_thread_dies_all_are_told_and_the_next_may_try(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    worker.num_threads = num_threads
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_serve", lambda: (_ for _ in ()).throw(OSError("no stream")))
        speaks(worker, "a", "b")
        assert all_spoken(worker)[1] == dict.fromkeys(("a", "b"), "speech: OSError: no stream")
        assert worker.error == "OSError: no stream"
    speaks(worker, "c")
    assert all_spoken(worker)[1] == {"c": None}
    assert worker.error is None


def no_threads(monkeypatch: pytest.MonkeyPatch, prefix: str, most: int = 0) -> None:
    """As when the system's limit is reached: no more than `most` of this kind start."""
    start, count = threading.Thread.start, itertools.count()

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix) and next(count) >= most:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_where_no_thread_can_be_started_speech_fails_at_once(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_threads(patch, "antiphon-speech")
        speaks(worker, "a")
        [end] = worker.poll()
        message = "no thread can be started: RuntimeError: can't start new thread"
        assert (end.is_last, end.error) == (True, f"speech: {message}")
        assert worker.error == message
    speaks(worker, "b")
    assert all_spoken(worker)[1] == {"b": None}


def test_where_fewer_threads_can_be_started_they_do_all_the_work(
    worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.num_threads = 3
    no_threads(monkeypatch, "antiphon-speech", most=1)
    speaks(worker, "a", "b", "c")
    assert all_spoken(worker)[1] == dict.fromkeys("abc")


def test_threads_work_side_by_side(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec.max_batch_frames = 1 << 20  # one alone would take both in one batch
    worker.num_threads = 2
    both = threading.Barrier(2)
    generate, sizes = codec.decoder.flow.generate, []

    def met(inputs: list[FlowInput]) -> Any:
        sizes.append(len(inputs))
        both.wait(LONG_S)
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", met)
    speaks(worker, "a", "b", schedule=None)
    assert all_spoken(worker)[1] == dict.fromkeys("ab")
    assert sizes == [1, 1]


@pytest.mark.slow
def test_a_fault_in_the_middle_of_a_chunk_changes_nothing_in_its_stream(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mel was gone, or its phase was ahead of its sound, where memory ran out between the two."""
    units = units_of(70, 4)
    expected = codec.stream().push(units, final=True)
    places: list[tuple[Any, str]] = [
        (codec.decoder.hift, "forward"),
        (codec.decoder.hift, "mix"),
        (FlowStream, "_keep_context"),
        (HiftStream, "add"),
        (HiftStream, "emitted"),
    ]
    for owner, name in places:
        stream = codec.stream()
        stream.add(units, final=True)
        pieces = []
        with monkeypatch.context() as patch:
            raises_once(patch, owner, name, MemoryError(), at=2)
            while stream.ready:
                try:
                    pieces += advance([stream])
                except MemoryError:
                    continue
        np.testing.assert_array_equal(np.concatenate(pieces), expected, err_msg=name)


def test_a_decode_that_nobody_wants_is_given_up(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the flow: it took seconds to close an engine, and to end the program."""
    gate = Gate(codec, monkeypatch)
    ends: list[Callable[[], None]] = [lambda: worker.abort("a"), worker.stop]
    for end in ends:
        steps: list[Any] = []
        estimator = codec.decoder.flow.matching.solver.estimator

        def counted(*arguments: Any, estimator: Any = estimator, steps: list[Any] = steps) -> Any:
            steps.append(arguments)
            return estimator(*arguments)

        monkeypatch.setattr(codec.decoder.flow.matching.solver, "estimator", counted)
        gate.is_open.clear()
        gate.is_held.clear()
        worker.begin("a", None, 0, None)
        worker.push("a", [1] * 60, final=True)
        assert gate.is_held.wait(LONG_S)
        (thread,) = worker._threads
        end()
        gate.is_open.set()
        thread.join(LONG_S)
        assert not thread.is_alive()
        assert steps == []


# --- units of no request --------------------------------------------------------------------------


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


# --- in the engine ------------------------------------------------------------------------------------

SPEAKS = Request("Hello", modalities=("text", "audio"))


@pytest.fixture
def engine(codec: Codec) -> Iterator[Engine]:
    from checkpoints import RANDOM_MODEL

    with Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False) as engine:
        yield engine


def run(engine: Engine, until: Callable[[Any], bool] = lambda event: False) -> list[Any]:
    events: list[Any] = []
    while engine.has_unfinished():
        new = engine.step()
        events += new
        engine.check_integrity()
        if any(until(event) for event in new):
            break
    return events


@pytest.mark.slow
def test_sound_comes_while_units_are_generated(engine: Engine) -> None:
    engine.add_request(SPEAKS, SamplingParams(max_units=200, ignore_eos=True))
    count = 0
    while count < 20:
        count += sum(len(event.units) for event in engine.step() if isinstance(event, UnitDelta))
    worker = engine.speech_worker
    assert worker is not None
    with worker._news:
        assert worker._news.wait_for(lambda: worker._spoken, LONG_S)
    assert any(isinstance(event, AudioDelta) for event in engine.step())
    assert engine.scheduler.running, "and it has not ended"
    events = run(engine)
    assert isinstance(events[-1], Finished)
    metrics = events[-1].completion.metrics
    assert metrics.ttfa_s is not None and metrics.e2e_s is not None
    assert metrics.ttfa_s < metrics.e2e_s


@pytest.mark.slow
def test_streamed_audio_is_the_codecs_stream(engine: Engine, codec: Codec) -> None:
    engine.add_request(SPEAKS, SamplingParams(max_units=90, seed=5, ignore_eos=True))
    events = run(engine)
    done = events[-1].completion
    assert np.array_equal(
        done.audio, np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])
    )
    assert np.array_equal(done.audio, codec.stream(seed=5).push(done.units, final=True))
    [whole] = engine.generate([SPEAKS], SamplingParams(max_units=90, seed=5, ignore_eos=True))
    assert whole.audio is not None
    assert np.array_equal(whole.audio, codec.decode([done.units], seeds=[5])[0])
    assert len(whole.audio) == len(done.audio)


def test_speech_that_fails_ends_its_request_alone(
    engine: Engine, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    voiced = Request("Hello", modalities=("text", "audio"), voice="中文男")
    params = SamplingParams(max_units=60, ignore_eos=True)
    expected = engine.generate([SPEAKS], params)[0]
    broken = codec._voices.get("中文男").embedding
    generate = codec.decoder.flow.generate

    def breaking(inputs: list[FlowInput]) -> Any:
        if any(torch.equal(row.embedding, broken) for row in inputs):
            raise MemoryError("too much")
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", breaking)
    bad, good = engine.generate([voiced, SPEAKS], params)
    assert (bad.finish_reason, bad.error, bad.audio) == ("error", "speech: MemoryError: too much", None)
    assert good.finish_reason == expected.finish_reason
    assert good.units == expected.units
    streamed = engine.add_request(voiced, SamplingParams(max_units=2000, ignore_eos=True))
    [end] = [event for event in run(engine) if isinstance(event, Finished)]
    assert (end.request_id, end.completion.finish_reason) == (streamed, "error")
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_abort_while_speech_is_made(engine: Engine, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is done with it, its blocks are free, and its sound is still to come: then it is aborted."""
    gate = Gate(codec, monkeypatch)
    request_id = engine.add_request(SPEAKS, SamplingParams(max_units=40, ignore_eos=True))
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.step()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    assert engine.step() == [], "it waits for its sound"
    assert engine.has_unfinished()
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add_request(Request("Hi", request_id=request_id))
    assert engine.abort(request_id)
    [end] = engine.step()
    assert isinstance(end, Finished)
    assert (end.completion.finish_reason, end.completion.audio) == ("abort", None)
    assert len(end.completion.units) == 40
    assert not engine.has_unfinished()
    assert not engine.abort(request_id)
    gate.is_open.set()


@pytest.mark.slow
def test_speech_does_not_pile_up(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who will speak waits while as many as run at a time have yet to be heard; who only writes does not."""
    from checkpoints import RANDOM_MODEL

    gate = Gate(codec, monkeypatch)
    params = SamplingParams(max_units=16, ignore_eos=True)
    with Engine(RANDOM_MODEL, codec=codec, device="cpu", progress=False, max_num_seqs=2) as engine:
        for _ in range(5):
            engine.add_request(SPEAKS, params)
        while len(engine._replies.awaiting_audio) < 2 or engine.scheduler.running:
            engine.step()
        worker = engine.speech_worker
        assert worker is not None
        poll, waits = worker.poll, []

        def noted(timeout_s: float = 0.0) -> Any:
            waits.append(timeout_s)
            return poll(timeout_s)

        monkeypatch.setattr(worker, "poll", noted)
        for _ in range(5):
            assert engine.step() == []
        assert len(engine.scheduler.waiting) >= 1
        assert min(waits) > 0, "a step with nothing to compute gives the cores to the worker"
        written = engine.add_request(Request("Hello", modalities=("text",)), SamplingParams(max_tokens=3))
        before = list(engine.scheduler.waiting)[:-1]
        events: list[Event] = []
        while not any(isinstance(event, Finished) for event in events):
            events += engine.step()
        assert {event.request_id for event in events} == {written}
        assert list(engine.scheduler.waiting) == before
        gate.is_open.set()
        assert sum(isinstance(event, Finished) for event in run(engine)) == 5


@pytest.mark.slow
@pytest.mark.long
def test_a_prompt_that_grew_is_answered_with_the_same_speech(engine: Engine) -> None:
    units, params = units_of(40, 3), SamplingParams(max_units=60, seed=5, ignore_eos=True)
    engine.add_request(Request(Units(units), modalities=("text", "audio")), params)
    expected = run(engine)[-1].completion
    request_id = engine.open_request(Request(Units([]), modalities=("text", "audio")), params)
    for heard in (units[:10], [*units[:17], 1, 2], units[:30]):
        engine.update_speech(request_id, heard)
        events = run(engine)
        assert not any(isinstance(event, (UnitDelta, AudioDelta)) for event in events), (
            "its user still speaks"
        )
    engine.commit(request_id, units)
    done = run(engine)[-1].completion
    assert (done.units, done.text, done.transcript) == (expected.units, expected.text, expected.transcript)
    assert np.array_equal(done.audio, expected.audio)
    engine.open_request(
        Request(Units([]), modalities=("text", "audio")), params
    )  # left open: no thread stays
    engine.close()


def test_underrun_is_what_a_listener_waits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("antiphon.outputs.request_output.time.perf_counter", lambda: clock[0])
    engine.add_request(SPEAKS)
    state = engine.scheduler.waiting[-1]
    output = OutputState(state, engine.tokenizer, engine.model_config, sample_rate_hz=1000)
    for at, seconds in ((101.0, 1.0), (101.5, 1.0), (103.25, 2.0), (106.0, 1.0)):
        clock[0] = at
        output.add_audio(np.zeros(int(1000 * seconds), np.float32))
    # played 101 to 103, a gap of 0.25, 103.25 to 105.25, a gap of 0.75, 106 to 107
    metrics = output.completion().metrics
    assert metrics.underrun_s == pytest.approx(1.0)
    assert (metrics.ttfa_s, metrics.audio_s, metrics.rtf) == (1.0, 5.0, 6.0 / 5.0)


def test_an_engine_that_cannot_speak_any_more_still_writes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_units=40, max_tokens=40, ignore_eos=True)
    assert engine.speech_worker is not None
    with monkeypatch.context() as patch:
        no_threads(patch, "antiphon-speech")
        spoken, written = engine.generate([SPEAKS, Request("Hello")], params)
        assert (spoken.finish_reason, written.finish_reason) == ("error", "length")
        assert spoken.error == "speech: no thread can be started: RuntimeError: can't start new thread"
    [again] = engine.generate(SPEAKS, params)
    assert again.audio is not None
    raises_once(monkeypatch, engine.speech_worker, "_batch", MemoryError(), 2)
    [again] = engine.generate(SPEAKS, params)
    assert again.audio is not None
