"""A reply whose text is given is spoken as if the LLM had picked that text, and the LLM is not run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from golden_cases import Case, cases
from serving import assert_nothing_held, load, run, text_passes

from antiphon import AsyncEngine, Engine, Finished, Message, Request, SamplingParams, TextDelta, Units
from antiphon.errors import InvalidRequest

SPOKEN = [case for case in cases() if case.speaks]
AUDIO = ("text", "audio")


@pytest.fixture
def engine() -> Engine:
    return load()


def given(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden text ids are seldom what the tokenizer makes of their text: `say` names the case instead."""
    texts = {case.name: case.data["llm_ids"] for case in SPOKEN}
    eot = engine.model_config.eot_token_id
    monkeypatch.setattr(engine.inputs._layout, "reply_ids", lambda name: [*texts[name], eot])


def asked(case: Case) -> Request:
    return replace(case.request(), say=case.name)


def test_golden_text_gives_golden_units(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given(engine, monkeypatch)
    passes = text_passes(engine)
    for case in SPOKEN:
        (done,) = engine.generate(asked(case))
        assert case.differences(done) == [], case.name
    assert not passes
    assert_nothing_held(engine)


def test_together_and_among_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given(engine, monkeypatch)
    both = [request for case in SPOKEN for request in (asked(case), case.request())]
    done = engine.generate(both)
    for case, one in zip([case for case in SPOKEN for _ in range(2)], done, strict=True):
        assert case.differences(one) == [], case.name


def test_a_small_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(block_size=4)
    given(engine, monkeypatch)
    monkeypatch.setattr(engine.scheduler, "max_num_batched_tokens", 5)
    for case, one in zip(SPOKEN, engine.generate([asked(case) for case in SPOKEN]), strict=True):
        assert case.differences(one) == [], case.name


def test_text_alone_is_enough(engine: Engine) -> None:
    """What precedes it is the prompt that speech starts from where the input is text."""
    params = SamplingParams(max_units=30)
    alone, asked = engine.generate(
        [
            Request(say="Hello there", modalities=AUDIO, sampling_params=params),
            Request("Whatever", say="Hello there", modalities=AUDIO, sampling_params=params),
        ]
    )
    assert alone.error is None
    assert alone.unit_ids == asked.unit_ids
    assert len(alone.unit_ids) == 30
    assert "Hello there".startswith(alone.text.strip())


def test_a_conversation_may_precede_it(engine: Engine) -> None:
    messages = [Message("system", "Be brief."), Message("user", ["Hear this", Units([1, 2, 3])])]
    request = Request(messages=messages, say="Yes", modalities=AUDIO)
    (done,) = engine.generate(request, SamplingParams(max_units=8))
    assert done.error is None
    assert len(done.transcript_ids) == len(done.transcript_spans)


def test_deltas_add_up_to_what_was_spoken(engine: Engine) -> None:
    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            text = ""
            request = Request(say="One two three", modalities=AUDIO)
            async for event in served.stream(request, SamplingParams(max_units=60)):
                if isinstance(event, TextDelta):
                    text += event.text
                if isinstance(event, Finished):
                    assert text == event.completion.text
                    assert "One two three".startswith(text)
            await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(say="Hi"), "say: it needs the modality audio or units, got text"),
        (Request(say="  ", modalities=AUDIO), "say: expected text to speak"),
        (Request(say=3, modalities=AUDIO), "say: expected a string or None, got int"),  # type: ignore[arg-type]
        (Request(say="\ud800", modalities=AUDIO), "say: expected valid Unicode"),
        (Request(modalities=AUDIO), "expected either content or messages, got neither"),
        (Request("a", say="b", messages=[], modalities=AUDIO), "got both"),
        (
            Request(say="a b c d", modalities=AUDIO, sampling_params=SamplingParams(max_tokens=2)),
            "say: expected at most 2 tokens",
        ),
    ],
)
def test_what_cannot_be_said(engine: Engine, request_: Request, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        engine.add_request(request_)
    assert_nothing_held(engine)


def test_it_must_fit_the_longest_sequence() -> None:
    engine = load(max_model_len=64)
    with pytest.raises(
        InvalidRequest, match=r"say: expected at most \d+ tokens \(max_tokens, max_model_len\)"
    ):
        engine.add_request(Request(say="a b " * 40, system="", modalities=AUDIO))


def test_a_user_who_speaks_has_no_reply_yet(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="say: a request whose user still speaks"):
        engine.open_request(Request(Units([]), say="Yes", modalities=AUDIO))
