"""What breaks while speech is made ends what it must and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from speaking import LONG_S, STREAMED, Fault, Gate, all_spoken, no_threads, raises_once, speaks, units_of

from antiphon import (
    StreamSchedule,
)
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.hift.stream import HiftStream
from antiphon.codec.stream import advance
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_worker import SpeechWorker


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
