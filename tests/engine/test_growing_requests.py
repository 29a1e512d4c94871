"""Requests whose users are still speaking: what they are told and refused, and what they cost others."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import takewhile

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases

from antiphon import (
    Completion,
    Engine,
    EngineDead,
    EngineOverloaded,
    Event,
    Finished,
    Image,
    InvalidRequest,
    Message,
    Request,
    SamplingParams,
    Speech,
    TextDelta,
    TranscriptDelta,
    TranscriptUpdate,
    Units,
)
from antiphon.types import Content

SHORT = SamplingParams(max_tokens=3)
SPOKEN_REPLY = ("text", "audio")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(RANDOM_MODEL, max_num_seqs=16)


def spoken(name: str) -> tuple[Case, Request, list[int]]:
    """A golden case, its request without what was said, and what was said."""
    case = next(case for case in cases() if case.name == name)
    content = case.request().content
    assert isinstance(content, list)
    units = content[-1]
    assert isinstance(units, Units)
    return case, replace(case.request(), content=[*content[:-1], Units([])]), list(units.units)


def settle(engine: Engine) -> list[Event]:
    """Step while there is something to do."""
    events: list[Event] = []
    while engine.has_unfinished():
        events += engine.step()
        engine.check_integrity()
    return events


def completion_of(events: list[Event]) -> Completion:
    assert isinstance(events[-1], Finished)
    return events[-1].completion


def updates(events: list[Event]) -> list[str]:
    assert {type(event) for event in events} <= {TranscriptUpdate}
    return [event.text for event in events if isinstance(event, TranscriptUpdate)]


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2t", "s2s", "s2s_image"])
@pytest.mark.long
def test_a_prompt_that_grows_unit_by_unit(name: str) -> None:
    engine = Engine(RANDOM_MODEL, block_size=4)
    case, request, units = spoken(name)
    request_id = engine.open_request(request)
    assert settle(engine) == [], "nothing was heard"
    request_state = engine._replies.outputs[request_id].request
    heard = []
    for n in range(1, len(units) + 1):
        engine.update_speech(request_id, units[:n])
        (told,) = settle(engine)  # one unit more is always a change
        labels = [request_state.prompt_labels[p] for p in request_state.prompt.unit_positions]
        blanks = list(takewhile(lambda label: label == engine.model_config.blank_token_id, labels[::-1]))
        assert isinstance(told, TranscriptUpdate)
        assert told == TranscriptUpdate(request_id, told.text, n, len(blanks))
        heard.append(told.text)
    engine.commit(request_id)
    events = settle(engine)
    done = completion_of(events)
    assert case.differences(done) == []
    assert heard[-1] == done.transcript
    assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == done.transcript
    assert not any(isinstance(e, TranscriptUpdate) for e in events)


def test_each_hypothesis_replaces_the_one_before(engine: Engine) -> None:
    """It is that of a prompt that came at once, whatever was heard before."""
    _, request, units = spoken("s2s")
    expected = {
        n: engine.generate(Request(Units(units[:n])), SHORT)[0].transcript for n in (5, 20, len(units))
    }
    request_id = engine.open_request(request)
    settle(engine)
    told = ""
    for n in (20, len(units), 5, 20):
        engine.update_speech(request_id, units[:n])
        for text in updates(settle(engine)):
            told = text
        assert told == expected[n]
    engine.update_speech(request_id, [])
    assert updates(settle(engine)) == [""], "all of it was taken back"
    engine.abort(request_id)
    settle(engine)


def test_the_hypothesis_is_of_the_last_message(engine: Engine) -> None:
    _, _, units = spoken("s2s")
    turns = [
        Message("user", Units([3, 9, 9, 40])),
        Message("assistant", "I see."),
        Message("user", Units([])),
    ]
    request_id = engine.open_request(Request(messages=turns), SHORT)
    assert settle(engine) == []
    engine.update_speech(request_id, units)
    heard = updates(settle(engine))
    engine.commit(request_id)
    done = completion_of(settle(engine))
    said = Request(messages=[*turns[:2], Message("user", Units(units))])
    whole = engine.generate(said, SHORT)[0]
    assert (done.transcript, done.transcript_ids) == (whole.transcript, whole.transcript_ids)
    assert done.text_ids == whole.text_ids
    assert heard == [done.transcript]
    assert len(done.transcript) < len(engine.tokenizer.decode(done.transcript_ids))


def test_units_that_were_heard_before_the_request_is_opened(engine: Engine) -> None:
    case, request, units = spoken("s2t")
    request_id = engine.open_request(replace(request, content=[Units(units)]))
    assert updates(settle(engine)) == [case.data["asr_text"]]
    engine.commit(request_id)
    assert case.differences(completion_of(settle(engine))) == []


def test_most_is_computed_before_the_commit() -> None:
    """All that is left after it: the end of the message, and the header of the reply."""
    engine = Engine(RANDOM_MODEL)
    _, request, units = spoken("s2s")
    request_id = engine.open_request(request)
    engine.update_speech(request_id, units)
    settle(engine)
    state = engine.scheduler.running[0]
    known, computed = len(state.text), state.text.num_computed
    assert known == computed
    engine.commit(request_id)
    assert len(state.text) - known == len(engine.inputs.process(Request("Hi", system="")).ids) - len(
        engine.inputs.process_growing(Request(["Hi", Units([])], system="")).ids
    )
    engine.step()
    assert state.text_ids, "the first id comes with the first step"
    engine.abort(request_id)
    settle(engine)


def test_times_count_from_the_commit(engine: Engine) -> None:
    _, request, units = spoken("s2t")
    request_id = engine.open_request(request, SHORT)
    engine.update_speech(request_id, units)
    settle(engine)
    engine.commit(request_id, committed_s=time.perf_counter() - 1000)
    metrics = completion_of(settle(engine)).metrics
    assert metrics.ttft_s is not None
    assert metrics.e2e_s is not None
    assert 1000 < metrics.ttft_s < metrics.e2e_s
    whole = engine.generate(spoken("s2t")[0].request(), SHORT)[0].metrics
    assert metrics.num_prompt_tokens == whole.num_prompt_tokens
    assert metrics.num_prompt_units == whole.num_prompt_units > 0


def test_sampling_is_that_of_a_request_that_came_at_once(engine: Engine) -> None:
    _, request, units = spoken("s2s")
    params = SamplingParams(temperature=0.9, top_p=0.95, seed=5, max_units=30)
    whole = engine.generate(Request(Units(units), SPOKEN_REPLY), params)[0]
    request_id = engine.open_request(request, params)
    settle(engine)
    engine.commit(request_id, units)
    assert completion_of(settle(engine)).unit_ids == whole.unit_ids


# --- others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_num_seqs", [1, 2])
def test_generate_goes_on_beside_open_requests(max_num_seqs: int) -> None:
    """It used to step forever, or wait for a row: nobody here goes on speaking."""
    engine = Engine(RANDOM_MODEL, max_num_seqs=max_num_seqs)
    case, request, units = spoken("s2t")
    names = [engine.open_request(request) for _ in range(3)]
    settle(engine)
    others = [case for case in cases() if "image" not in case.name]
    for other, done in zip(others, engine.generate([c.request() for c in others]), strict=True):
        assert other.differences(done) == [], other.name
    assert not engine.has_unfinished()
    for name in names:
        engine.commit(name, units)
    finished = [event for event in settle(engine) if isinstance(event, Finished)]
    assert [case.differences(event.completion) for event in finished] == [[], [], []]
    assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_abort_while_it_is_open(engine: Engine, steps: int) -> None:
    _, request, units = spoken("s2s")
    request_id = engine.open_request(request)
    engine.update_speech(request_id, units)
    for _ in range(steps):
        engine.step()
    assert engine.abort(request_id)
    done = completion_of(settle(engine))
    assert (done.finish_reason, done.text, done.transcript) == ("abort", "", "")
    assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks
    with pytest.raises(InvalidRequest, match="open request"):
        engine.update_speech(request_id, units)


def test_open_requests_count_as_waiting_while_they_do_not_run() -> None:
    engine = Engine(RANDOM_MODEL, max_num_waiting=2)
    _, request, _ = spoken("s2t")
    for _ in range(2):
        engine.open_request(request)
    with pytest.raises(EngineOverloaded):
        engine.open_request(request)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "Hello",
            r"content: expected an open request to end in Units, those heard so far or \[\], got str",
        ),
        ([Units([]), "Hello"], r"content\[1\]: expected an open request to end in Units"),
        ([Units([]), Units([])], r"content\[0\]: expected at least one unit, got none"),
        (Speech("nowhere.wav"), "got Speech"),
        (Units([64]), "from 0 to 63, got 64"),
        ([], "expected content"),
        ([Image(b"no picture"), Units([])], r"content\[0\]"),
    ],
)
def test_a_request_that_cannot_be_opened(engine: Engine, content: Content, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.open_request(Request(content))
    assert not engine.has_unfinished()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([1, 64], "units: expected unit numbers from 0 to 63, got 64"),
        ([-1], "got -1"),
        ([1, 2.5], r"units.units\[1\]: expected a unit number, got float"),
        (7, "expected units as a list"),
        ([1] * 900, "max_model_len"),
    ],
)
def test_a_wrong_update_changes_nothing(units: list[int], message: str) -> None:
    engine = Engine(RANDOM_MODEL, max_model_len=800)
    case, request, right = spoken("s2s")
    request_id = engine.open_request(request)
    engine.update_speech(request_id, right)
    settle(engine)
    for call in (engine.update_speech, engine.commit):
        with pytest.raises(InvalidRequest, match=message):
            call(request_id, units)
        assert not engine.has_unfinished()
    engine.commit(request_id)
    assert case.differences(completion_of(settle(engine))) == []


def test_more_than_the_cache_holds_changes_nothing() -> None:
    block_size = 4
    engine = Engine(RANDOM_MODEL, block_size=block_size, kv_cache_bytes=100 * block_size * 8 * 2 * 2 * 16 * 4)
    case, request, units = spoken("s2s")
    request_id = engine.open_request(request)
    engine.update_speech(request_id, units)
    with pytest.raises(InvalidRequest, match="do not fit the KV cache of 100 blocks"):
        engine.update_speech(request_id, [1] * 300)
    settle(engine)
    engine.commit(request_id)
    assert case.differences(completion_of(settle(engine))) == []


def test_a_commit_needs_something_said(engine: Engine) -> None:
    _, request, units = spoken("s2t")
    request_id = engine.open_request(request, SHORT)
    with pytest.raises(InvalidRequest, match="at least one unit before the commit, got none"):
        engine.commit(request_id)
    with pytest.raises(InvalidRequest, match="at least one unit before the commit, got none"):
        engine.commit(request_id, [])
    engine.commit(request_id, units)
    with pytest.raises(InvalidRequest, match="open request"):
        engine.commit(request_id)
    assert completion_of(settle(engine)).finish_reason == "length"


def test_a_closed_request_is_not_open(engine: Engine) -> None:
    engine.add_request(Request("Hi", request_id="closed"), SHORT)
    for call in (engine.update_speech, engine.commit):
        with pytest.raises(InvalidRequest, match="expected the id of an open request, got 'closed'"):
            call("closed", [1])
    settle(engine)
    closed = Engine(RANDOM_MODEL)
    closed.close()
    with pytest.raises(EngineDead):
        closed.open_request(Request(Units([])))


def test_limits_are_those_of_the_whole_prompt() -> None:
    """A request that was opened with many units and committed with few has the room that the few leave."""
    engine = Engine(RANDOM_MODEL, max_model_len=200)
    _, request, units = spoken("s2t")
    params = SamplingParams(max_tokens=500, ignore_eos=True)
    request_id = engine.open_request(replace(request, content=[Units(units)]), params)
    settle(engine)
    engine.commit(request_id, units[:4])
    events = settle(engine)
    done = completion_of(events)
    assert done.finish_reason == "length"
    assert len(done.text_ids) == 200 - done.metrics.num_prompt_tokens
    assert any(isinstance(event, TextDelta) for event in events)
