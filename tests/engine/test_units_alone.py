"""Units of speech without its sound: the same ids, and nothing for the speech worker to do."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import Case, cases
from serving import assert_nothing_held, check_events, collect, load, run

from antiphon import (
    AsyncEngine,
    AudioDelta,
    Completion,
    Engine,
    Finished,
    Message,
    Request,
    SamplingParams,
    Units,
)
from antiphon.errors import InvalidRequest

AUDIO = ("text", "audio")
UNITS = ("text", "units")
SPOKEN = [case for case in cases() if case.speaks]
HEARD = [case for case in cases() if "asr_ids" in case.data]
IDS = ("transcript_ids", "text", "text_ids", "fusion_ids", "units", "unit_ids", "finish_reason", "error")


@pytest.fixture
def engine() -> Engine:
    return Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, kv_cache_bytes=32 << 20)


@pytest.fixture
def begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests of which sound is made."""
    assert engine.speech_worker is not None
    begin, begun = engine.speech_worker.begin, []

    def noted(request_id: str, *arguments: Any, **options: Any) -> None:
        begun.append(request_id)
        begin(request_id, *arguments, **options)

    monkeypatch.setattr(engine.speech_worker, "begin", noted)
    return begun


def asked(case: Case, request_id: str | None = None, modalities: tuple[str, ...] = UNITS) -> Request:
    return replace(case.request(request_id), modalities=modalities)


def ids(done: Completion) -> dict[str, Any]:
    return {name: getattr(done, name) for name in IDS}


@pytest.mark.slow
def test_golden_units_among_all_kinds_of_requests(engine: Engine, begun: list[str]) -> None:
    requests = [case.request(case.name) for case in cases()]
    requests += [asked(case, f"{case.name}, units") for case in SPOKEN]
    requests += [asked(case, f"{case.name}, heard", ("transcript",)) for case in HEARD]
    done = {one.request_id: one for one in engine.generate(requests)}
    assert begun == [case.name for case in SPOKEN]
    for case in cases():
        assert case.differences(done[case.name]) == [], case.name
    for case in HEARD:
        assert done[f"{case.name}, heard"].transcript_ids == case.data["asr_ids"], case.name
    for case in SPOKEN:
        units, spoken = done[f"{case.name}, units"], done[case.name]
        assert ids(units) == ids(spoken), case.name
        assert spoken.audio is not None
        assert (units.audio, units.sample_rate_hz) == (None, None)
        assert units.metrics.ttfu_s is not None
        assert (units.metrics.ttfa_s, units.metrics.audio_s, units.metrics.rtf) == (None, None, None)
    assert_nothing_held(engine)


@pytest.mark.slow
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9, seed=7)])
def test_a_stream_of_units(engine: Engine, begun: list[str], params: SamplingParams) -> None:
    params = replace(params, max_units=20)
    spoken = engine.generate([case.request() for case in SPOKEN], params)
    begun.clear()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            for case, expected in zip(SPOKEN, spoken, strict=True):
                events = await collect(served.stream(asked(case), params))
                assert ids(check_events(events)) == ids(expected), case.name
                assert not any(isinstance(event, AudioDelta) for event in events)

    run(main())
    assert begun == []


def test_an_engine_without_a_codec_gives_units_too() -> None:
    engine = load()
    for case, done in zip(SPOKEN, engine.generate([asked(case) for case in SPOKEN]), strict=True):
        assert case.differences(done) == [], case.name
    assert_nothing_held(engine)


def test_units_of_a_given_text(engine: Engine, begun: list[str]) -> None:
    units, spoken = (Request(say="Hello there", modalities=each) for each in (UNITS, AUDIO))
    [expected] = engine.generate(spoken, SamplingParams(max_units=30))
    begun.clear()
    [done] = engine.generate(units, SamplingParams(max_units=30))
    assert len(done.unit_ids) == 30
    assert ids(done) == ids(expected)
    assert begun == []


def test_an_open_request_and_one_that_is_aborted(engine: Engine, begun: list[str]) -> None:
    params = SamplingParams(max_units=30, ignore_eos=True, seed=1)
    [expected] = engine.generate(Request(Units([3, 1, 4]), AUDIO), params)
    begun.clear()
    name = engine.open_request(Request(Units([]), UNITS), params)
    engine.update_speech(name, [3, 1])
    engine.commit(name, [3, 1, 4])
    other = engine.add_request(Request("Hello", UNITS), params)
    for _ in range(4):
        engine.step()
    engine.abort(other)
    ended = []
    while engine.has_unfinished():
        ended += [event.completion for event in engine.step() if isinstance(event, Finished)]
    done = {one.request_id: one for one in ended}
    assert ids(done[name]) == ids(expected)
    assert done[other].finish_reason == "abort"
    assert begun == []
    assert_nothing_held(engine)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        *[
            (
                Request("Hello", modalities),
                "modalities: expected one of [text], [text, audio], [text, units], [tr",
            )
            for modalities in [
                ("units",),
                ("audio", "units"),
                ("text", "audio", "units"),
                ("transcript", "units"),
            ]
        ],
        (Request("Hello", UNITS, voice="any"), "voice: it needs the modality audio, got text, units"),
        (
            Request("Hello", UNITS, sampling_params=SamplingParams(stop=".")),
            "SamplingParams.stop: stop strings are for text-only replies",
        ),
        (Request(say="Hello"), "say: it needs the modality audio or units, got text"),
        (Request(messages=[Message("user", "")], modalities=UNITS), "messages[0].content"),
    ],
)
def test_what_cannot_be_asked_for(request_: Request, error: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(error)):
        load().add_request(request_)
