"""A fault ends only what it must. It is raised from every call that a step makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import Case, cases
from injection import Panic, injected
from plain_capture import PlainCapture, recording
from serving import assert_nothing_held, load, run

from antiphon import (
    AsyncEngine,
    Completion,
    Engine,
    EngineDead,
    Event,
    Finished,
    Request,
    SamplingParams,
    Units,
)
from antiphon.sched.plan import StackPlan

CASES = [case for case in cases() if case.name in ("t2t", "s2s_short", "s2t", "t2s")]
SHORT = SamplingParams(max_tokens=4)

STEPS = [
    ("runner", "start", 2, False),
    ("runner", "start", 2, True),
    ("runner", "run_bottom", 1, False),
    ("runner", "run_bottom", 3, True),
    ("runner", "run_text", 1, True),
    ("runner", "run_text", 4, False),
    ("runner", "run_top", 1, False),
    ("runner", "run_top", 5, True),
    ("scheduler", "admit", 1, True),
    ("scheduler", "schedule_bottom", 2, True),
    ("scheduler", "schedule_text", 3, True),
    ("scheduler", "schedule_top", 4, False),
    ("scheduler", "complete_bottom", 2, True),
    ("scheduler", "complete_text", 2, False),
    ("scheduler", "complete_text", 3, True),
    ("scheduler", "complete_top", 3, False),
    ("_replies", "poll", 4, False),
    ("_replies", "reap", 3, False),
    ("_replies", "collect_audio", 5, True),
    ("_replies", "_close", 1, False),
]


@pytest.fixture(scope="module", params=["kernel by kernel", "recorded"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """On a CPU, and on the path that a GPU takes, where results are told while the next pass is computed."""
    with recording(PlainCapture() if request.param == "recorded" else None):
        return load()


def finished(engine: Engine, events: list[Event] | None = None) -> dict[str, Completion]:
    events = [] if events is None else events
    while engine.has_unfinished():
        events += engine.step()
    return {event.request_id: event.completion for event in events if isinstance(event, Finished)}


def wrong(done: list[Completion], asked: list[Case]) -> dict[str, list[str]]:
    pairs = ((case.name, case.differences(one)) for case, one in zip(asked, done, strict=True))
    return {name: found for name, found in pairs if found}


def add_all(engine: Engine, prefix: str) -> list[str]:
    return [engine.add_request(case.request(f"{prefix}-{case.name}")) for case in CASES]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("owner", "method", "call", "behind"), STEPS)
@pytest.mark.parametrize("kind", [MemoryError, Panic])
def test_a_fault_that_does_not_recur_costs_nobody_anything(
    engine: Engine, owner: str, method: str, call: int, behind: bool, kind: type[BaseException]
) -> None:
    with injected(getattr(engine, owner), method, kind("injected"), call=call, behind=behind) as raised:
        done = engine.generate([case.request() for case in CASES])
    assert raised
    assert wrong(done, CASES) == {}
    assert_nothing_held(engine)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("owner", "method", "call", "behind"), STEPS)
def test_an_interrupt_aborts_only_what_is_generated(
    engine: Engine, owner: str, method: str, call: int, behind: bool
) -> None:
    ids = add_all(engine, "mine")
    with (
        injected(getattr(engine, owner), method, KeyboardInterrupt(), call=call, behind=behind) as raised,
        pytest.raises(KeyboardInterrupt),
    ):
        engine.generate([case.request() for case in CASES])
    assert raised
    engine.check_integrity()
    done = finished(engine)
    assert sorted(done) == sorted(ids)
    assert wrong([done[name] for name in ids], CASES) == {}
    assert_nothing_held(engine)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("owner", "method", "call", "behind"), STEPS)
def test_an_interrupted_step_aborts_all_and_tells_it(
    engine: Engine, owner: str, method: str, call: int, behind: bool
) -> None:
    ids, events = add_all(engine, "mine"), list[Event]()
    with (
        injected(getattr(engine, owner), method, KeyboardInterrupt(), call=call, behind=behind),
        pytest.raises(KeyboardInterrupt),
    ):
        finished(engine, events)
    assert_nothing_held(engine)
    done = finished(engine, events)
    assert sorted(done) == sorted(ids)
    ended = {name for name, one in done.items() if one.finish_reason != "abort"}
    assert len(ended) <= 1, "one may have finished before"
    assert wrong(engine.generate([case.request() for case in CASES]), CASES) == {}


def hurt_by(is_hurt: Callable[[StackPlan], bool], real: Callable[[StackPlan], object]) -> object:
    def run(plan: StackPlan) -> object:
        if is_hurt(plan):
            raise RuntimeError("injected")
        return real(plan)

    return run


@pytest.mark.parametrize("stack", ["run_bottom", "run_text", "run_top"])
@pytest.mark.parametrize("late", [False, True])
def test_a_request_that_causes_a_fault_ends_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, stack: str, late: bool
) -> None:
    """Every pass that it is in fails, from the first on, or once it has said something."""

    def is_hurt(plan: StackPlan) -> bool:
        return any(
            chunk.request.request_id == "bad" and (not late or len(chunk.request.text_ids) > 3)
            for chunk in plan.chunks
        )

    monkeypatch.setattr(engine.runner, stack, hurt_by(is_hurt, getattr(engine.runner, stack)))
    spoken = next(case for case in CASES if case.name == "s2s_short")
    bad = spoken.request("bad")
    requests = [case.request() for case in CASES]
    done = engine.generate([*requests[:2], bad, *requests[2:]])
    assert wrong(done[:2] + done[3:], CASES) == {}
    assert (done[2].finish_reason, done[2].error) == ("error", "RuntimeError: injected")
    assert spoken.data["llm_ids"][: len(done[2].text_ids)] == done[2].text_ids
    assert_nothing_held(engine)


def test_requests_that_fail_only_together_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory is short: nobody waits forever."""

    def is_hurt(plan: StackPlan) -> bool:
        return len(plan.chunks) > 1

    monkeypatch.setattr(engine.runner, "run_text", hurt_by(is_hurt, engine.runner.run_text))
    done = engine.generate([case.request() for case in CASES[:3]])
    assert all(case.differences(one) == [] or one.error for case, one in zip(CASES, done, strict=False))
    assert_nothing_held(engine)


def test_a_model_that_answers_nobody_has_failed() -> None:
    """What has finished by then is not lost, and later callers are told why."""
    engine = load(max_num_seqs=1)
    cause = RuntimeError("the device fell off the bus")
    first, *others = [case.request() for case in CASES]
    real = engine.runner.run_text

    def run(plan: StackPlan) -> list[int]:
        if engine._replies.outputs and len(engine._replies.outputs) < len(CASES):
            raise cause
        return real(plan)

    engine.runner.run_text = run  # type: ignore[method-assign]
    done = engine.generate([first, *others])
    assert CASES[0].differences(done[0]) == []
    for one in done[1:]:
        assert one.error == "the engine has failed: RuntimeError: the device fell off the bus"
    with pytest.raises(EngineDead, match="fell off the bus") as dead:
        engine.generate(first)
    assert dead.value.__cause__ is cause
    engine.close()


def test_a_scheduler_that_fails_again_and_again_ends_the_engine() -> None:
    engine = load()
    engine.add_request(Request("Hello"), SHORT)
    with (
        injected(engine.scheduler, "schedule_text", ZeroDivisionError("injected"), call=None),
        pytest.raises(ZeroDivisionError),
    ):
        finished(engine)
    with pytest.raises(EngineDead, match="ZeroDivisionError"):
        engine.step()
    engine.close()


def test_a_reply_that_cannot_be_told_ends_alone(engine: Engine) -> None:
    ids = add_all(engine, "mine")
    output = engine._replies.outputs[ids[1]]
    with injected(output, "poll", ValueError("injected"), call=None):
        done = finished(engine)
    assert done[ids[1]].error == "ValueError: injected"
    others = [0, 2, 3]
    assert wrong([done[ids[i]] for i in others], [CASES[i] for i in others]) == {}
    assert_nothing_held(engine)


def test_an_end_that_a_fault_left_untold_is_told_by_the_next_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, reap, faults = (
        next(case for case in CASES if case.name == "t2t"),
        engine._replies.reap,
        [MemoryError()],
    )

    def failing() -> Iterator[Event]:
        if engine._replies.has_ended and faults:
            raise faults.pop()
        return reap()

    monkeypatch.setattr(engine._replies, "reap", failing)
    engine.add_request(case.request("untold"))
    events: list[Event] = []
    while faults:
        events += engine.step()
    assert not any(isinstance(event, Finished) for event in events)
    assert not engine.scheduler.has_work, "nothing is left to compute"
    assert engine.has_unfinished(), "and yet there is something to tell"
    assert not wrong([finished(engine, events)["untold"]], [case])
    assert_nothing_held(engine)


def test_open_requests_survive_a_fault_of_others(engine: Engine) -> None:
    spoken = next(case for case in CASES if case.name == "s2s_short")
    content = spoken.request().content
    assert isinstance(content, list)
    assert isinstance(content[-1], Units)
    units = content[-1].units
    name = engine.open_request(Request(Units([]), ("text", "audio"), sampling_params=spoken.params()))
    engine.update_speech(name, units[:5])
    with injected(engine.runner, "run_text", MemoryError(), call=2) as raised:
        engine.generate(Request("Hello"), SHORT)
    assert raised
    engine.commit(name, units)
    assert spoken.differences(finished(engine)[name]) == []
    assert_nothing_held(engine)


@pytest.mark.slow
def test_speech_is_the_same_after_a_fault_in_the_middle_of_it() -> None:
    engine = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, kv_cache_bytes=32 << 20)
    request, params = (
        Request("Hello", ("text", "audio")),
        SamplingParams(max_units=30, ignore_eos=True, seed=1),
    )
    [whole] = engine.generate(request, params)
    with injected(engine.runner, "run_top", MemoryError(), call=12) as raised:
        [done] = engine.generate(request, params)
    assert raised
    assert done.audio is not None
    np.testing.assert_array_equal(done.audio, whole.audio)
    with (
        injected(engine.speech_worker, "poll", KeyboardInterrupt(), call=35),
        pytest.raises(KeyboardInterrupt),
    ):
        engine.generate(request, params)
    assert not engine.has_unfinished()
    [done] = engine.generate(request, params)
    np.testing.assert_array_equal(done.audio, whole.audio)
    engine.close()


def test_clients_of_a_served_engine_are_told_what_concerns_them(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()

    def is_hurt(plan: StackPlan) -> bool:
        return any(chunk.request.request_id == "bad" for chunk in plan.chunks)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            with injected(engine.scheduler, "complete_text", MemoryError(), call=3) as raised:
                done = await asyncio.gather(*(served.generate(case.request()) for case in CASES))
            assert raised
            assert wrong(done, CASES) == {}
            monkeypatch.setattr(engine.runner, "run_text", hurt_by(is_hurt, engine.runner.run_text))
            asked = [*(case.request() for case in CASES), Request("Hello", request_id="bad")]
            *done, bad = await asyncio.gather(*map(served.generate, asked))
            assert wrong(done, CASES) == {}
            assert (bad.finish_reason, bad.error) == ("error", "RuntimeError: injected")
            assert served.health().alive
        assert_nothing_held(engine)

    run(main())
