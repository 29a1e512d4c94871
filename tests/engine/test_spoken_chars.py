"""What has been said of a reply's text by the end of each of its units."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from golden_cases import cases
from serving import assert_nothing_held, load

from antiphon import (
    Completion,
    Engine,
    Event,
    Finished,
    Request,
    SamplingParams,
    Speech,
    TextDelta,
    UnitDelta,
    Units,
)
from antiphon.types import UNITS_PER_S

SPOKEN = [case for case in cases() if case.speaks]
AUDIO = ("text", "audio")


@pytest.fixture(scope="module")
def packaged() -> Iterator[Engine]:
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20) as engine:
        yield engine


def events_of(engine: Engine, requests: list[Request]) -> dict[str, list[Event]]:
    names = [engine.add_request(request, stream_audio=False) for request in requests]
    events: dict[str, list[Event]] = {name: [] for name in names}
    while engine.has_unfinished():
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def check(events: list[Event]) -> Completion:
    """The numbers of the deltas and of the completion agree, and are those of text that was told."""
    assert isinstance(events[-1], Finished)
    done = events[-1].completion
    told: list[int] = []
    num_text = 0
    for event in events:
        if isinstance(event, TextDelta):
            num_text += len(event.text)
        if isinstance(event, UnitDelta):
            assert len(event.spoken_chars) == len(event.units)
            told += event.spoken_chars
            assert max(event.spoken_chars) <= num_text
    found = done.spoken_chars
    assert len(found) == len(done.units)
    assert all(a <= b for a, b in pairwise([0, *found, len(done.text)]))
    if done.finish_reason == "stop" and done.units:
        assert found[-1] == len(done.text)
    # A unit is read back when it is told, or else in the step after it; the last one ends the text.
    assert all(
        before <= one <= after for one, (before, after) in zip(told, pairwise([0, *found]), strict=False)
    )
    return done


def test_golden_replies_together_and_in_a_small_cache() -> None:
    requests = [case.request() for case in SPOKEN]
    whole = [check(events) for events in events_of(load(), requests).values()]
    assert any(done.spoken_chars[-1] > 0 for done in whole)
    for settings in ({"block_size": 4, "text_lookahead": 0}, {"max_num_batched_tokens": 7}):
        engine = load(**settings)
        for before, events in zip(whole, events_of(engine, requests).values(), strict=True):
            assert check(events).spoken_chars == before.spoken_chars
        assert_nothing_held(engine)


def test_replies_without_units_have_no_numbers() -> None:
    engine = load()
    written, heard = engine.generate(
        [Request("Hello", sampling_params=SamplingParams(max_tokens=3)), Request(Units([1]), ("transcript",))]
    )
    assert written.spoken_chars == heard.spoken_chars == []


def test_a_stop_id_within_a_reply_has_no_number(packaged: Engine) -> None:
    params = SamplingParams(ignore_eos=True, max_units=60)
    (events,) = events_of(packaged, [Request("Hello", AUDIO, sampling_params=params)]).values()
    done = check(events)
    assert len(done.units) < len(done.unit_ids) == 60
    assert done.finish_reason == "length"


QUESTIONS: list[Any] = [
    Request("Hello", AUDIO),
    Request("What is the capital of France?", AUDIO),
    Request("What can you do?", AUDIO),
    Request("How are you today?", AUDIO),
    Request("Tell me about the sun.", AUDIO),
    Request(say="I am fine, thank you.", modalities=AUDIO),
    Request(say="The capital of Italy is Rome.", modalities=AUDIO),
    Request(say="I see a red circle and a blue square.", modalities=AUDIO),
]


@pytest.mark.slow
@pytest.mark.long
def test_words_are_said_when_they_are_heard_in_the_sound(packaged: Engine) -> None:
    """The sound of each reply is transcribed: its words are read at the times that the numbers tell."""
    errors: list[float] = []
    num_words = 0
    for events in events_of(packaged, QUESTIONS).values():
        done = check(events)
        assert done.audio is not None and done.sample_rate_hz is not None
        heard = packaged.transcribe(Speech((done.audio, done.sample_rate_hz))).words
        said = done.text.split()
        num_words += len(said)
        starts = [len(" ".join([*said[:i], ""])) for i in range(len(said))]
        matcher = SequenceMatcher(None, said, [word.text for word in heard], autojunk=False)
        for i, j, length in matcher.get_matching_blocks():
            for n in range(length):
                unit = next(u for u, chars in enumerate(done.spoken_chars) if chars > starts[i + n])
                errors.append(abs(unit / UNITS_PER_S - heard[j + n].start_s))
    assert len(errors) > 0.7 * num_words
    assert median(errors) < 0.1
    assert sum(error < 0.3 for error in errors) > 0.9 * len(errors)
