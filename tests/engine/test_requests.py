"""Requests as users send them: events, limits, aborts, errors, sampling, conversations."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import Case, cases
from PIL import Image as PilImage

from antiphon import (
    AudioDelta,
    Completion,
    ConfigError,
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
    UnitDelta,
    Units,
)

SPOKEN = ("text", "audio")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(RANDOM_MODEL, max_num_seqs=16)


@pytest.fixture(scope="module")
def speaking() -> Engine:
    """With the packaged codec."""
    return Engine(RANDOM_MODEL, codec=RANDOM_CODEC)


def case_named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


def events_of(engine: Engine, request: Request, params: SamplingParams | None = None) -> list[Event]:
    engine.add_request(request, params)
    events: list[Event] = []
    while engine.has_unfinished():
        events += engine.step()
    return events


def completion_of(events: list[Event]) -> Completion:
    assert isinstance(events[-1], Finished)
    return events[-1].completion


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_deltas_add_up_and_come_in_order(engine: Engine, case: Case) -> None:
    events = events_of(engine, case.request())
    done = completion_of(events)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done.text
    assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == done.transcript
    assert [u for e in events if isinstance(e, UnitDelta) for u in e.units] == done.units
    kinds = [type(e) for e in events]
    assert kinds.count(Finished) == 1
    if done.transcript:
        heard = len(kinds) - kinds[::-1].index(TranscriptDelta)
        assert heard <= kinds.index(TextDelta), "the transcript is there before the reply starts"
    if case.speaks and done.text:
        assert kinds.index(TextDelta) < kinds.index(UnitDelta), "text comes before the units that say it"


def test_units_leave_the_engine_one_by_one(engine: Engine) -> None:
    events = events_of(engine, case_named("s2s").request())
    assert all(len(e.units) == 1 for e in events if isinstance(e, UnitDelta))


def test_audio_of_the_default_engine(speaking: Engine) -> None:
    events = events_of(speaking, case_named("s2s").request())
    done = completion_of(events)
    assert done.audio is not None
    assert done.audio.dtype == np.float32
    assert done.sample_rate_hz == 22050
    assert len(done.audio) == 256 * int(len(done.units) / 25 * 22050 / 256)
    parts = [e.samples for e in events if isinstance(e, AudioDelta)]
    np.testing.assert_array_equal(np.concatenate(parts), done.audio)
    assert done.metrics.audio_s == pytest.approx(len(done.audio) / 22050)
    assert done.metrics.ttft_s is not None
    assert done.metrics.ttfu_s is not None
    assert done.metrics.ttfa_s is not None
    assert done.metrics.ttft_s <= done.metrics.ttfu_s <= done.metrics.ttfa_s <= (done.metrics.e2e_s or 0)


def test_audio_does_not_depend_on_the_batch(speaking: Engine) -> None:
    spoken = [c for c in cases() if c.speaks][:3]
    requests = [c.request() for c in spoken]
    params = [SamplingParams(max_units=20, seed=i) for i in range(3)]
    together = speaking.generate(requests, params)
    for request, one, done in zip(requests, params, together, strict=True):
        alone = speaking.generate(request, one)[0]
        assert done.audio is not None
        assert alone.audio is not None
        np.testing.assert_array_equal(done.audio, alone.audio)


def test_speech_goes_in_as_sound(speaking: Engine) -> None:
    t = np.arange(16000) / 16000
    sound = (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    done = speaking.generate(Request(Speech((sound, 16000))), SamplingParams(max_tokens=4))[0]
    assert done.finish_reason == "length", done.error
    assert done.metrics.num_prompt_tokens > 25, "a second of sound is 25 units"
    assert done.metrics.num_prompt_units == 25


def test_positions_of_a_prompt_are_counted_by_kind(engine: Engine) -> None:
    picture, units = Image(PilImage.new("RGB", (40, 30), "red")), Units([1, 2, 3])
    pictures = [picture, picture]
    contents: list[Any] = ["Hello", [*pictures, "Hello"], [units, " and ", units], [*pictures, units]]
    counts = [
        done.metrics for done in engine.generate([Request(c) for c in contents], SamplingParams(max_tokens=2))
    ]
    assert [metrics.num_prompt_units for metrics in counts] == [0, 0, 6, 3]
    alone, seen, _, both = counts
    assert alone.num_image_positions == 0 and seen.num_image_positions == both.num_image_positions > 0
    assert seen.num_prompt_tokens > alone.num_prompt_tokens + seen.num_image_positions


# --- limits ---------------------------------------------------------------------------------------


def test_length_limits(engine: Engine) -> None:
    case = case_named("s2s")
    done = engine.generate(case.request(), SamplingParams(max_units=5))[0]
    assert done.finish_reason == "length"
    assert done.unit_ids == case.data["output_ids"][:5]
    done = engine.generate(case_named("t2t").request(), SamplingParams(max_tokens=3))[0]
    assert done.finish_reason == "length"
    assert done.text_ids == case_named("t2t").data["output_ids"][:3]


def test_a_text_limit_ends_the_text_under_speech_but_not_the_speech(engine: Engine) -> None:
    case = case_named("s2s")
    done = engine.generate(case.request(), SamplingParams(max_tokens=4, max_units=30))[0]
    assert done.text_ids == case.data["llm_ids"][:4]
    assert len(done.unit_ids) == 30 or done.finish_reason == "stop"


@pytest.mark.slow
def test_speech_that_says_a_cut_text_to_its_end_ends_by_length() -> None:
    """It used to be "stop". However far text runs ahead, the reason is the same."""
    asked = [(case, limit) for case in cases() if case.name in ("s2s", "s2s_short") for limit in (3, 12, 20)]
    params = [SamplingParams(max_tokens=limit, max_units=200) for _, limit in asked]
    found = []
    for lookahead in (0, 20):
        engine = Engine(RANDOM_MODEL, text_lookahead=lookahead)
        found.append(engine.generate([case.request() for case, _ in asked], params))
    stops, eot = engine.model_config.stop_token_ids, engine.model_config.eot_token_id
    num_cut = 0
    for (case, limit), done, same in zip(asked, *found, strict=True):
        assert (done.unit_ids, done.finish_reason) == (same.unit_ids, same.finish_reason), case.name
        is_cut = len(done.text_ids) == limit and done.text_ids[-1] != eot
        num_cut += is_cut and done.unit_ids[-1] in stops
        assert done.finish_reason == ("length" if is_cut or done.unit_ids[-1] not in stops else "stop")
    assert num_cut, "some end by themselves"
    assert "stop" in {done.finish_reason for done in found[0]}, "some have said all"


def test_text_under_speech_has_no_limit_of_its_own(engine: Engine) -> None:
    """It used to end at 1024 tokens, where the released code goes on to the end of turn."""
    request_id = engine.add_request(case_named("s2s").request(), SamplingParams(max_units=2))
    state = engine.scheduler.waiting[-1]
    assert state.params.max_tokens == engine.config.max_model_len - state.num_text_prompt
    engine.abort(request_id)
    request_id = engine.add_request(Request("Hi"), SamplingParams())
    assert engine.scheduler.waiting[-1].params.max_tokens == 1024
    engine.abort(request_id)
    engine.step()


def test_one_token_of_text_may_leave_speech_nothing_to_say(engine: Engine) -> None:
    """The first token of this reply carries nothing: the units attend to an empty window."""
    done = engine.generate(case_named("s2s").request(), SamplingParams(max_tokens=1, max_units=6))[0]
    assert done.fusion_ids == []
    assert len(done.unit_ids) <= 6


def test_ignore_eos_goes_on_to_the_limit(engine: Engine) -> None:
    case = case_named("s2s")
    done = engine.generate(case.request(), SamplingParams(max_units=90, ignore_eos=True))[0]
    assert len(done.unit_ids) == 90
    assert done.unit_ids[: len(case.data["output_ids"])] == case.data["output_ids"]


def test_stop_strings_end_a_text_reply(engine: Engine) -> None:
    case = case_named("t2t")
    whole = case.data["text"]
    stop = whole[10:13]
    events = events_of(engine, case.request(), SamplingParams(stop=[stop]))
    done = completion_of(events)
    assert done.finish_reason == "stop"
    assert done.text == whole[: whole.index(stop)].strip()
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done.text


def test_the_longest_sequence_bounds_the_limits() -> None:
    engine = Engine(RANDOM_MODEL, max_model_len=120)
    done = engine.generate(case_named("t2t").request())[0]
    assert done.finish_reason == "length"
    assert len(done.text_ids) == 120 - done.metrics.num_prompt_tokens
    done = engine.generate(case_named("s2t").request())[0]
    assert done.finish_reason == "error"
    assert "max_model_len" in str(done.error)


def test_a_full_cache_ends_a_request_that_is_alone() -> None:
    """It cannot be preempted for anyone, and there is nothing to wait for."""
    engine = Engine(RANDOM_MODEL, block_size=4, kv_cache_bytes=40 * 4 * 2048)
    done = engine.generate(Request("Hi", system=""), SamplingParams(max_tokens=4000, ignore_eos=True))[0]
    assert done.finish_reason == "length"
    assert 100 < len(done.text_ids) < 400
    engine.check_integrity()


# --- conversations --------------------------------------------------------------------------------


def test_the_transcript_is_of_the_last_message_that_holds_speech(engine: Engine) -> None:
    first, second = [3, 9, 9, 40], [11, 50, 59, 51, 10, 20, 21, 16, 3, 19]
    turns = [
        Message("user", Units(first)),
        Message("assistant", "I see."),
        Message("user", Units(second)),
    ]
    both = engine.generate(Request(messages=turns), SamplingParams(max_tokens=1))[0]
    assert both.transcript_ids, "the prompt has labels that are not blank"
    shown = engine.tokenizer.decode(both.transcript_ids).strip()
    assert shown.endswith(both.transcript)
    assert both.transcript != shown


def test_a_typed_turn_after_a_spoken_one_keeps_the_transcript(engine: Engine) -> None:
    units = case_named("s2s").data["user"]
    numbers = [int(k) for k in units.replace("<Audio_", " ").replace(">", "").split()]
    alone = engine.generate(Request(Units(numbers)), SamplingParams(max_tokens=1))[0]
    turns = [Message("user", Units(numbers)), Message("assistant", "Yes."), Message("user", "And now?")]
    later = engine.generate(Request(messages=turns), SamplingParams(max_tokens=1))[0]
    assert later.transcript == alone.transcript


# --- sampling -------------------------------------------------------------------------------------


def test_sampling_does_not_depend_on_the_batch(engine: Engine) -> None:
    params = [
        SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=i, max_tokens=30, max_units=30)
        for i in range(4)
    ]
    requests = [case_named(name).request() for name in ("s2s", "t2t", "s2t", "t2s")]
    together = engine.generate(requests, params)
    for request, one, done in zip(requests, params, together, strict=True):
        alone = engine.generate(request, one)[0]
        assert (alone.text_ids, alone.unit_ids) == (done.text_ids, done.unit_ids)
    other = engine.generate(requests[1], SamplingParams(temperature=0.9, seed=99, max_tokens=30))[0]
    assert other.text_ids != together[1].text_ids


def test_temperature_moves_units_and_leaves_the_text_under_them(engine: Engine) -> None:
    case = case_named("s2s")
    done = engine.generate(case.request(), SamplingParams(temperature=1.0, seed=1, max_units=40))[0]
    assert done.unit_ids != case.data["output_ids"][:40]
    common = min(len(done.text_ids), len(case.data["llm_ids"]))
    assert done.text_ids[:common] == case.data["llm_ids"][:common]


# --- errors and aborts ----------------------------------------------------------------------------


BAD_REQUESTS = [
    Request(""),
    Request([]),
    Request(None),
    Request(Units([])),
    Request(Units([64])),
    Request(Units([-1])),
    Request(Speech("nowhere.wav")),
    Request(Image("nowhere.png")),
    Request(Image(b"not a picture")),
    Request("hello", modalities=("smell",)),
    Request("hello", modalities=("audio",)),
    Request([Image(PilImage.new("RGB", (4, 4)))] * 40),
    Request(messages=[Message("robot", "hello")]),
    Request(messages=[Message("assistant", "hello")]),
    Request("hello", messages=[Message("user", "hello")]),
    Request("hello", sampling_params=SamplingParams(stop=["x"]), modalities=SPOKEN),
    Request("x " * 40000),
]


@pytest.mark.parametrize("request_", BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_a_bad_request_fails_alone(engine: Engine, request_: Request) -> None:
    good = case_named("t2t")
    with pytest.raises(InvalidRequest):
        engine.add_request(request_)
    bad, done = engine.generate([request_, good.request()])
    assert bad.finish_reason == "error"
    assert bad.error
    assert good.differences(done) == []


def test_bad_sampling_params_name_what_is_wrong() -> None:
    for name, value in [
        ("temperature", -1),
        ("top_p", 0),
        ("top_k", -1),
        ("max_tokens", 0),
        ("max_units", 1.5),
    ]:
        with pytest.raises(InvalidRequest, match=name):
            SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_ids_in_use_are_refused(engine: Engine) -> None:
    engine.add_request(Request("Hi", request_id="twice"), SamplingParams(max_tokens=2))
    with pytest.raises(InvalidRequest, match="twice"):
        engine.add_request(Request("Hi", request_id="twice"))
    while engine.has_unfinished():
        engine.step()
    assert engine.generate(Request("Hi", request_id="twice"), SamplingParams(max_tokens=2))[0].error is None


def test_too_many_waiting_are_refused() -> None:
    engine = Engine(RANDOM_MODEL, max_num_waiting=2)
    engine.add_request(Request("a"))
    engine.add_request(Request("b"))
    with pytest.raises(EngineOverloaded):
        engine.add_request(Request("c"))
    assert len(engine.generate([Request("d")] * 5, SamplingParams(max_tokens=2))) == 5


def test_a_closed_engine_says_so() -> None:
    with Engine(RANDOM_MODEL) as engine:
        pass
    with pytest.raises(EngineDead):
        engine.add_request(Request("Hi"))


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 40])
def test_abort_at_any_moment_frees_everything(engine: Engine, steps: int) -> None:
    for case in cases():
        request_id = engine.add_request(case.request())
        for _ in range(steps):
            engine.step()
        finished = not engine.abort(request_id)
        events = engine.step() if engine.has_unfinished() else []
        if not finished:
            assert completion_of(events).finish_reason == "abort"
        assert not engine.has_unfinished()
        engine.check_integrity()
        assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks
    assert not engine.abort("nobody")


@pytest.mark.slow
@pytest.mark.long
def test_two_hundred_mixed_requests_with_aborts_and_bad_inputs() -> None:
    engine = Engine(RANDOM_MODEL, max_num_seqs=12, block_size=4, kv_cache_bytes=700 * 4 * 2048)
    rng = random.Random(7)
    wanted: dict[str, Case] = {}
    aborted: set[str] = set()
    done: dict[str, Completion] = {}
    num_bad = 0
    for _ in range(200):
        kind = rng.random()
        if kind < 0.15:
            num_bad += 1
            with pytest.raises(InvalidRequest):
                engine.add_request(rng.choice(BAD_REQUESTS))
        else:
            case = rng.choice(cases())
            wanted[engine.add_request(case.request())] = case
        for _ in range(rng.randrange(4)):
            if engine.has_unfinished():
                done |= {e.request_id: e.completion for e in engine.step() if isinstance(e, Finished)}
        if rng.random() < 0.2 and (alive := sorted(set(wanted) - set(done))):
            victim = rng.choice(alive)
            if engine.abort(victim):
                aborted.add(victim)
    while engine.has_unfinished():
        done |= {e.request_id: e.completion for e in engine.step() if isinstance(e, Finished)}
    engine.check_integrity()
    assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks
    assert set(done) == set(wanted)
    assert num_bad > 10
    assert len(aborted) > 10
    for request_id, case in wanted.items():
        if request_id in aborted:
            assert done[request_id].finish_reason == "abort"
        else:
            assert case.differences(done[request_id]) == [], case.name


def test_an_id_stays_in_use_until_its_end_is_told(engine: Engine) -> None:
    engine.add_request(Request("Hi", request_id="mine"))
    engine.abort("mine")
    with pytest.raises(InvalidRequest, match="mine"):
        engine.add_request(Request("Hi", request_id="mine"))
    assert completion_of(engine.step()).request_id == "mine"
    engine.add_request(Request("Hi", request_id="mine"))
    engine.abort("mine")
    engine.step()


def test_generated_ids_leave_out_those_in_use() -> None:
    engine = Engine(RANDOM_MODEL)
    engine.add_request(Request("Hi", request_id="request-0"), SamplingParams(max_tokens=1))
    assert engine.add_request(Request("Hi"), SamplingParams(max_tokens=1)) == "request-1"


def test_sampling_params_of_a_wrong_type_are_named(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="sampling_params"):
        engine.add_request(Request("Hi"), {"max_tokens": 3})  # type: ignore[arg-type]


def test_codec_in_another_precision() -> None:
    with Engine(codec_dtype="bfloat16", progress=False) as engine:
        assert engine.codec is not None
        assert engine.codec.dtype == torch.bfloat16
        with pytest.raises(ConfigError, match="expected a codec given as a folder, got a Codec in"):
            Engine(codec=engine.codec, codec_dtype="float16", progress=False)
    with pytest.raises(
        ConfigError, match="codec_dtype: expected one of auto, float32, bfloat16, float16, got 'int8'"
    ):
        Engine(codec_dtype="int8", progress=False)
