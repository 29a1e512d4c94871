"""A transcript alone: the bottom layers read the speech, and neither the LLM nor the top layers are run."""

from __future__ import annotations

import pytest
from golden_cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import assert_nothing_held, load, text_passes

from antiphon import Completion, Engine, Finished, Image, Message, Request, Units
from antiphon.errors import InvalidRequest

HEARD = [case for case in cases() if "asr_ids" in case.data]


def transcribed(engine: Engine, request: Request) -> Completion:
    (done,) = engine.generate(Request(request.content, ("transcript",), messages=request.messages))
    return done


@pytest.mark.parametrize("block_size", [4, 16])
def test_it_is_the_transcript_of_a_whole_answer(block_size: int) -> None:
    engine = load(block_size=block_size)
    passes = text_passes(engine)
    for _ in range(2):  # the second time behind a cached prefix
        for case in HEARD:
            done = transcribed(engine, case.request())
            assert done.transcript_ids == case.data["asr_ids"], case.name
            assert done.transcript == case.data["asr_text"], case.name
            assert (done.finish_reason, done.text, done.unit_ids) == ("stop", "", [])
    assert not passes
    assert_nothing_held(engine)


def test_all_together_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(max_num_batched_tokens=32, max_num_seqs=3)
    requests = [Request(case.request().content, ("transcript",)) for case in HEARD]
    for case, done in zip(HEARD, engine.generate(requests), strict=True):
        assert done.transcript_ids == case.data["asr_ids"], case.name


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 3), max_size=40))
def test_spans_are_the_runs_of_labels(labels: list[int]) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from antiphon.outputs.transcript import Transcript

    request: Any = SimpleNamespace(
        prompt=SimpleNamespace(
            unit_positions=range(5, 5 + len(labels)),
            has_speech=True,
            unit_places=(),
            num_last_units=len(labels),
        ),
        prompt_labels=[None] * 5 + labels,
    )
    transcript = Transcript(request, cast(Any, load_tokenizer()), blank=0)
    transcript.advance()
    spans = transcript.spans()
    assert [labels[start] for start, _ in spans] == transcript.ids
    painted = [0] * len(labels)
    for number, (start, end) in zip(transcript.ids, spans, strict=True):
        painted[start:end] = [number] * (end - start)
    assert painted == labels, "every unit that is no blank belongs to one id"


def load_tokenizer() -> object:
    from checkpoints import RANDOM_MODEL

    from antiphon.text.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(RANDOM_MODEL)


def test_a_growing_request_may_want_it_too() -> None:
    engine = load()
    case = HEARD[0]
    content = case.request().content
    assert isinstance(content, list)
    assert isinstance(content[-1], Units)
    units = content[-1].units
    name = engine.open_request(Request(Units([]), ("transcript",)))
    for end in range(0, len(units), 3):
        engine.update_speech(name, units[:end])
        while engine.has_unfinished():
            engine.step()
    for all_units in (units, None):
        engine.commit(name, all_units)
        events = []
        while engine.has_unfinished():
            events += engine.step()
        done = next(event.completion for event in events if isinstance(event, Finished))
        (whole,) = engine.generate(Request(Units(units), ("transcript",)))
        assert (done.transcript, done.transcript_ids) == (whole.transcript, whole.transcript_ids)
        assert done.finish_reason == "stop"
        assert_nothing_held(engine)
        name = engine.open_request(Request(Units(units), ("transcript",)))
        while engine.has_unfinished():
            engine.step()


def test_pictures_change_nothing() -> None:
    engine = load()
    case = next(case for case in HEARD if case.data["images"])
    content = case.request().content
    assert isinstance(content, list)
    with_picture, without = engine.generate(
        [
            Request(content, ("transcript",)),
            Request([part for part in content if not isinstance(part, Image)], ("transcript",)),
        ]
    )
    assert with_picture.error is None
    assert len(with_picture.transcript_ids) == len(with_picture.transcript_spans)
    assert without.transcript_spans


def test_there_must_be_speech() -> None:
    engine = load()
    with pytest.raises(InvalidRequest, match="a transcript is of speech, got a request without any"):
        engine.add_request(Request("Hello", ("transcript",)))
    with pytest.raises(InvalidRequest, match="say: it needs the modality audio or units"):
        engine.add_request(Request(Units([1]), ("transcript",), say="Hello"))
    with pytest.raises(InvalidRequest, match=r"modalities: expected one of \[text\], \[text, audio\]"):
        engine.add_request(Request(messages=[Message("user", "a")], modalities=("audio", "transcript")))
