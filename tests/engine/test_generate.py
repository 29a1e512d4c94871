"""`Engine.generate` keeps the result of every request, whatever one of them is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import cases
from injection import Panic, injected
from serving import assert_nothing_held, load

from antiphon import (
    CheckpointError,
    Completion,
    Engine,
    Event,
    Finished,
    Image,
    InvalidRequest,
    Request,
    SamplingParams,
    Speech,
    TextDelta,
    Units,
)

CASE = next(case for case in cases() if case.name == "t2t")
SHORT = SamplingParams(max_tokens=3, max_units=3)
SPOKEN = ("text", "audio")


class Path:
    """Raises when its path is asked for."""

    def __fspath__(self) -> str:
        raise MemoryError("no room for a path")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, kv_cache_bytes=32 << 20)


def check_neighbours(engine: Engine, bad: Any, *params: Any) -> Completion:
    """A bad request between two good ones: the good ones are served as ever."""
    first, found, last = engine.generate([CASE.request(), bad, CASE.request()], *params)
    assert [CASE.differences(one) for one in (first, last)] == [[], []]
    assert found.finish_reason == "error"
    assert found.error
    assert isinstance(found.request_id, str)
    assert_nothing_held(engine)
    return found


BAD: list[Any] = [
    Request(Units([10**5000])),
    Request(Speech((torch.zeros(1000, device="meta"), 16000))),
    Request(Speech((np.zeros(1000, np.float32), 10**400))),
    Request(Speech(Path())),
    Request(Image(Path())),
    Request("Hello", request_id=np.zeros(3)),  # type: ignore[arg-type]
    Request("Hello", request_id=5),  # type: ignore[arg-type]
    Request("Hello", voice="nobody", modalities=SPOKEN),
    Request("Hello", sampling_params="none"),  # type: ignore[arg-type]
    Request("Hello", sampling_params=SamplingParams(stop=["x"]), modalities=SPOKEN),
    Request("Hello " * 60000),
    "Hello",
    None,
    7,
    np.zeros(3),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_request_that_cannot_be_served_fails_alone(engine: Engine, bad: Any) -> None:
    check_neighbours(engine, bad)


@pytest.mark.parametrize(
    "error",
    [MemoryError("m"), RuntimeError("r"), CheckpointError("c"), OSError(5, "o"), Panic("p"), Unprintable()],
)
@pytest.mark.parametrize(
    "where", ["inputs.process", "speech_worker.begin", "scheduler.fits", "scheduler.add"]
)
def test_whatever_is_raised_while_one_is_added(engine: Engine, where: str, error: BaseException) -> None:
    part, method = where.split(".")
    bad = Request("Hello", SPOKEN, request_id="bad", sampling_params=SHORT)
    call = 1 if part == "speech_worker" else 2
    with injected(getattr(engine, part), method, error, call=call, behind=part == "speech_worker") as raised:
        found = check_neighbours(engine, bad)
    assert raised
    assert found.request_id == "bad"
    assert engine.speech_worker is not None
    assert engine.speech_worker.num_speaking == 0
    assert engine.generate(bad)[0].error is None, "its id is free"


@pytest.mark.slow
@pytest.mark.parametrize("max_num_waiting", [1, 2, 3])
def test_a_full_queue_loses_nothing(max_num_waiting: int) -> None:
    engine = load(max_num_waiting=max_num_waiting, max_num_seqs=2)
    requests = [CASE.request(), CASE.request(), Request("Hello " * 60000), CASE.request(), Request(None)] * 2
    for asked in (requests, requests[::-1], requests[2:]):
        done = engine.generate(asked)
        assert len(done) == len(asked)
        for request, one in zip(asked, done, strict=True):
            is_bad = request.content is None or isinstance(request.content, str)
            assert (one.finish_reason == "error") is is_bad
            assert is_bad or CASE.differences(one) == []
    assert_nothing_held(engine)


def test_a_request_that_finds_the_queue_full_for_good_is_told() -> None:
    """It is full of open requests whose users are silent: there is nothing to wait for."""
    engine = load(max_num_waiting=1, max_num_seqs=1)
    engine.open_request(Request(Units([1])))
    while engine.has_unfinished():
        engine.step()
    engine.add_request(Request("Hello"), SHORT)
    while engine.has_unfinished():
        engine.step()
    found = engine.generate([CASE.request(), CASE.request()])
    assert [one.error for one in found] == ["1 requests are waiting already"] * 2


@pytest.mark.parametrize("max_num_waiting", [1, 4096])
def test_an_id_is_used_once_in_a_call(max_num_waiting: int) -> None:
    engine = load(max_num_waiting=max_num_waiting)
    first, second = Request("Hello", request_id="a"), Request("Bye bye", request_id="a")
    params = [SamplingParams(max_tokens=2), SamplingParams(max_tokens=5), SamplingParams(max_tokens=4)]
    done = engine.generate([first, second, Request("x", request_id="b")], params)
    assert [(one.request_id, len(one.text_ids), one.error is None) for one in done] == [
        ("a", 2, True),
        ("a", 0, False),
        ("b", 4, True),
    ]
    assert "'a'" in str(done[1].error)
    assert engine.generate(second, SHORT)[0].error is None, "it is free again"


def test_lists_may_be_any_iterable(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert engine.generate(iter(())) == []
    done = engine.generate(
        (Request("Hello") for _ in range(3)), (SamplingParams(max_tokens=n) for n in (1, 2, 3))
    )
    assert [len(one.text_ids) for one in done] == [1, 2, 3]
    assert len(engine.generate({1: Request("Hello")}.values(), SHORT)) == 1


@pytest.mark.parametrize(
    ("requests", "params"),
    [
        ([Request("a"), Request("b")], [SHORT]),
        ([Request("a")], [SHORT, SHORT]),
        (Request("a"), []),
        ([Request("a")], 5),
        ("Hello", None),
        (b"Hello", None),
        (None, None),
        (5, None),
    ],
)
def test_arguments_are_refused_before_anything_is_added(engine: Engine, requests: Any, params: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^(requests|sampling_params): expected .*, got"):
        engine.generate(requests, params)
    assert_nothing_held(engine)
    assert not engine.has_unfinished()


def test_an_iterable_that_raises_leaves_nothing_behind(engine: Engine) -> None:
    def requests() -> Any:
        yield CASE.request()
        raise ZeroDivisionError

    with pytest.raises(InvalidRequest, match="requests: it cannot be read: ZeroDivisionError") as refused:
        engine.generate(requests())
    assert isinstance(refused.value.__cause__, ZeroDivisionError)
    assert not engine.has_unfinished()
    assert_nothing_held(engine)


def test_wrong_parameters_fail_alone(engine: Engine) -> None:
    found = check_neighbours(engine, CASE.request(), [None, "hot", None])
    assert "sampling_params" in str(found.error)


def test_events_of_others_are_told_by_the_next_step() -> None:
    engine = load()
    name = engine.add_request(CASE.request("mine"))
    assert not [event for event in engine.step() if isinstance(event, Finished)]
    early = engine.add_request(Request("Hello", request_id="early"), SHORT)
    engine.abort(early)
    done = engine.generate([Request("Hello", request_id="mine"), CASE.request()])
    assert done[0].error is not None, "its id is in use"
    assert CASE.differences(done[1]) == []
    assert engine.has_unfinished()
    events: list[Event] = []
    while engine.has_unfinished():
        events += engine.step()
    assert isinstance(events[0], Finished)
    assert events[0].completion.finish_reason == "abort"
    [end] = [event for event in events if isinstance(event, Finished) and event.request_id == name]
    assert events[-1] is end or events.index(end) > 1
    assert CASE.differences(end.completion) == []
    rest = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert end.completion.text.endswith(rest)
    assert rest
    assert_nothing_held(engine)
