"""Speech that is silence or noise is marked, its transcript is empty, and a setting says what becomes of
it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import pytest
from serving import assert_nothing_held, collect, run

from antiphon import AsyncEngine, Completion, Engine, Image, Message, Request, SamplingParams, Speech, Units
from antiphon.codec import read_audio
from antiphon.errors import ConfigError, InvalidRequest
from antiphon.types import Finished, TextDelta, TranscriptDelta

DEMO = files("antiphon.assets") / "demo"
QUESTION, RATE_HZ = read_audio(str(DEMO / "question.wav"))
RNG = np.random.default_rng(0)
NOTHING_SAID = {
    "silence": np.zeros(32000, np.float32),
    "cancelled": np.stack([QUESTION, -QUESTION], axis=1),
    "white noise": RNG.normal(0, 0.1, 32000).astype(np.float32),
    "loud noise in int16": RNG.integers(-20000, 20000, (48000, 2)).astype(np.int16),
    "hum": (0.3 * np.sin(2 * np.pi * 50 * np.arange(32000) / 16000)).astype(np.float32),
}
SHORT = SamplingParams(max_tokens=8, max_units=20)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20) as engine:
        yield engine


def set_policy(engine: Engine, policy: str) -> None:
    engine._intake._config = replace(engine.config, no_speech=policy)  # type: ignore[arg-type]


def answer(engine: Engine, samples: Any, policy: str = "answer", **options: Any) -> Completion:
    set_policy(engine, policy)
    request = Request([Image(str(DEMO / "shapes.png")), Speech((samples, RATE_HZ))], **options)
    [completion] = engine.generate(request, SHORT)
    assert_nothing_held(engine)
    return completion


@pytest.mark.parametrize("name", NOTHING_SAID)
def test_it_is_marked_and_answered_as_ever(engine: Engine, name: str) -> None:
    completion = answer(engine, NOTHING_SAID[name])
    assert completion.no_speech
    assert completion.transcript == ""
    assert completion.text
    assert (completion.finish_reason, completion.error) == (
        "stop" if completion.text[-1] == "." else "length",
        None,
    )


@pytest.mark.parametrize("modalities", [("text",), ("text", "audio")])
@pytest.mark.parametrize("name", ["silence", "white noise"])
def test_what_becomes_of_it_is_a_setting(engine: Engine, name: str, modalities: tuple[str, ...]) -> None:
    for _ in range(2):  # once more, with all of the prompt cached
        empty = answer(engine, NOTHING_SAID[name], "empty", modalities=modalities)
        assert (empty.no_speech, empty.finish_reason, empty.error) == (True, "stop", None)
        error = answer(engine, NOTHING_SAID[name], "error", modalities=modalities)
        assert (error.no_speech, error.finish_reason) == (True, "error")
        assert error.error == "no speech was heard in what was to be speech"
        for completion in (empty, error):
            said = (
                completion.transcript,
                completion.text,
                completion.text_ids,
                completion.units,
                completion.unit_ids,
            )
            assert said == ("", "", [], [], [])
            assert completion.audio is None


@pytest.mark.parametrize("policy", ["answer", "empty", "error"])
def test_speech_is_answered_whatever_the_setting(engine: Engine, policy: str) -> None:
    noisy = QUESTION + RNG.normal(0, QUESTION.std() * 0.3, len(QUESTION))
    for samples in (QUESTION, noisy, np.stack([QUESTION, 0.2 * QUESTION], axis=1)):
        completion = answer(engine, samples, policy)
        assert (completion.no_speech, completion.transcript) == (False, "What is in the picture?")
        assert completion.text_ids


def test_written_requests_are_not_marked(engine: Engine) -> None:
    set_policy(engine, "error")
    [completion] = engine.generate(Request("Who is John?"), SHORT)
    assert (completion.no_speech, completion.finish_reason) == (
        False,
        "length" if len(completion.text_ids) == 8 else "stop",
    )


def test_the_last_message_with_speech_counts(engine: Engine) -> None:
    set_policy(engine, "answer")
    silence, speech = Speech((NOTHING_SAID["silence"], RATE_HZ)), Speech((QUESTION, RATE_HZ))

    def marked(*turns: Any) -> bool:
        messages = [Message(role, turn) for role, turn in zip(("user", "assistant") * 3, turns, strict=False)]
        [completion] = engine.generate(Request(messages=messages), SHORT)
        return completion.no_speech

    assert marked(speech, "Well.", silence)
    assert not marked(silence, "Well.", speech)
    assert marked(silence, "Well.", "And now?")
    assert not marked([silence, speech])
    assert marked([silence, silence])


def test_units_without_a_word_are_marked(engine: Engine) -> None:
    """Units hold no sound to measure: they are marked if the model reads no word from them."""
    set_policy(engine, "answer")
    found = [engine.generate(Request([Units([unit])]), SHORT)[0] for unit in range(0, 500, 25)]
    assert {c.no_speech for c in found} >= {not c.transcript for c in found}
    assert all(c.no_speech == (not c.transcript) for c in found)
    assert any(c.no_speech for c in found)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["answer", "empty"])
def test_spoken_into_a_session(engine: Engine, policy: Literal["answer", "empty"]) -> None:
    async def main(
        samples: np.ndarray[Any, Any], *, as_integers: bool = False
    ) -> tuple[Completion, list[Any]]:
        async with (
            AsyncEngine(device="cpu", progress=False, no_speech=policy) as served,
            served.open(Request([Units([])]), SHORT) as session,
        ):
            await session.push_audio(np.zeros(0, np.float32), RATE_HZ)
            for piece in np.array_split(samples, 20):
                await session.push_audio(np.round(piece * 2**15) if as_integers else piece, RATE_HZ)
                await session.push_audio([], RATE_HZ)
            await session.commit()
            events = await collect(session)
            last = events[-1]
            assert isinstance(last, Finished)
            return last.completion, events

    completion, events = run(main(NOTHING_SAID["white noise"]))
    assert (completion.no_speech, completion.transcript) == (True, "")
    assert not any(isinstance(event, TranscriptDelta) for event in events)
    assert bool(completion.text) == (policy == "answer")
    assert any(isinstance(event, TextDelta) for event in events) == (policy == "answer")
    completion, _ = run(main(QUESTION, as_integers=True))
    assert (completion.no_speech, completion.transcript) == (False, "What is in the picture?")


def test_other_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no_speech: expected one of answer, empty, error, got 'drop'"):
        Engine(no_speech="drop", progress=False)  # type: ignore[arg-type]


# --- too long ---------------------------------------------------------------------------------------


def test_speech_beyond_the_longest_sequence_is_refused_before_it_is_tokenized(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.codec is not None
    monkeypatch.setattr(engine.codec, "tokenize", lambda *_: pytest.fail("it was tokenized"))
    long, half = (np.zeros(seconds * 8000, np.int16) for seconds in (200, 90))
    for request, place in (
        (Request([Speech((long, 8000))]), r"content\[0\]"),
        (Request(["Hear this:", Speech((half, 8000)), Speech((half, 8000))]), r"content\[2\]"),
        (Request([Units([1] * 2300), Speech((half, 8000))]), r"content\[1\]"),
        (
            Request(messages=[Message("user", Speech((half, 8000))), Message("assistant", "Yes."),
                              Message("user", [Speech((half, 8000))])]),
            r"messages\[2\]\.content\[0\]",
        ),
    ):  # fmt: skip
        [completion] = engine.generate(request)
        assert completion.finish_reason == "error"
        assert completion.error is not None
        allowed = r"expected at most 16[0-3]\.\d s of speech beside \d+ positions"
        message = rf"^{place}: {allowed} .* got (200|180|182)\.0 s$"
        with pytest.raises(InvalidRequest, match=message):
            raise InvalidRequest(completion.error)


def test_all_recordings_of_a_request_share_the_limit(engine: Engine) -> None:
    sound = Speech((np.zeros(8000 * 160, np.int16), 8000))
    [completion] = engine.generate(Request([sound, sound]))
    assert completion.error == "content[1]: audio: expected at most 300 s, got 320.0 s"


def test_what_just_fits_is_served(engine: Engine) -> None:
    """The check before the tokenizer refuses nothing that fits."""
    engine._intake._config = replace(engine.config, no_speech="empty")
    room = engine.inputs._max_model_len
    assert room == 4096
    engine.inputs._max_model_len = 300
    try:
        for units, fits in ((230, True), (280, False)):
            [completion] = engine.generate(Request([Speech((np.zeros(640 * units, np.float32), 16000))]))
            assert (completion.finish_reason == "stop") == fits
    finally:
        engine.inputs._max_model_len = room
