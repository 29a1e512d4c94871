"""A recording of any length is heard in pieces, and told in segments and words with their times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import assert_nothing_held, load, run, text_passes

from antiphon import AsyncEngine, Engine, InputLimits, Request, Speech, Transcription, Word
from antiphon.codec import read_audio
from antiphon.errors import AntiphonError, EngineDead, EngineOverloaded, InvalidRequest
from antiphon.outputs.transcription import words_of

SPOKEN = Path(__file__).parents[1] / "golden" / "spoken_questions"
FILES = sorted(SPOKEN.glob("*.flac"))
QUESTIONS = [entry["question"] for entry in json.loads((SPOKEN / "questions.json").read_text())]
RATE_HZ = 16000
RECORDINGS = [read_audio(file)[0] for file in FILES]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20) as engine:
        yield engine


def with_pauses(numbers: list[int], pause_s: float) -> tuple[np.ndarray, list[float]]:
    """Recordings one after the other, and when each begins to be heard."""
    sounds: list[np.ndarray] = []
    begins: list[float] = []
    for number in numbers:
        begins.append(sum(map(len, sounds)) / RATE_HZ + 0.1)
        sounds += [RECORDINGS[number], np.zeros(int(pause_s * RATE_HZ), np.float32)]
    return np.concatenate(sounds), begins


def check_times(said: Transcription) -> None:
    edges = [edge for segment in said.segments for edge in (segment.start_s, segment.end_s)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= said.duration_s + 0.1 for edge in edges)
    for segment in said.segments:
        edges = [edge for word in segment.words for edge in (word.start_s, word.end_s)]
        assert edges == sorted(edges)
        assert segment.start_s <= edges[0] and edges[-1] <= segment.end_s


@pytest.mark.parametrize("number", range(len(FILES)))
def test_one_piece_is_the_transcript_of_a_whole_answer(engine: Engine, number: int) -> None:
    [whole] = engine.generate(Request(Speech(FILES[number])))
    passes = text_passes(engine)
    said = engine.transcribe(Speech(FILES[number]))
    assert not passes
    [segment] = said.segments
    assert segment.text == said.text == whole.transcript
    assert list(segment.tokens) == whole.transcript_ids
    assert " ".join(word.text for word in said.words) == said.text
    assert said.duration_s == len(RECORDINGS[number]) / RATE_HZ
    starts = [start / 25 for start, _ in whole.transcript_spans]
    assert {word.start_s for word in said.words} <= set(starts)
    check_times(said)
    assert_nothing_held(engine)


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [0.6, 2.0, 40.0])
def test_sentences_come_in_order_and_in_time(engine: Engine, pause_s: float) -> None:
    numbers = [0, 1, 2, 3, 4, 5, 6, 7]
    samples, begins = with_pauses(numbers, pause_s)
    said = engine.transcribe(Speech((samples, RATE_HZ)))
    assert [segment.text for segment in said.segments] == [QUESTIONS[number] for number in numbers]
    for segment, begin in zip(said.segments, begins, strict=True):
        assert abs(segment.start_s - begin) < 0.1
        assert 0 < segment.words[0].start_s - begin < 0.4
    check_times(said)


@pytest.mark.long
@pytest.mark.slow
def test_longer_than_a_request_may_be(engine: Engine) -> None:
    """The packaged model hears 162 s at a time, and a request may bring 300 s."""
    numbers = [0, 6, 4] * 20
    samples, _ = with_pauses(numbers, 4.0)
    assert len(samples) > 310 * RATE_HZ
    with pytest.raises(InvalidRequest, match="expected at most 300 s"):
        engine.add_request(Request(Speech((samples, RATE_HZ)), ("transcript",)))
    said = engine.transcribe(Speech((samples, RATE_HZ)))
    assert said.text == " ".join(QUESTIONS[number] for number in numbers)
    check_times(said)


@pytest.mark.slow
def test_a_small_model_hears_short_pieces() -> None:
    """max_model_len leaves room for three seconds beside the default system message."""
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20, max_model_len=128) as engine:
        assert 1.5 < engine.inputs.longest_piece_s < 4
        samples, _ = with_pauses([5, 7], 1.0)
        assert engine.transcribe(Speech((samples, RATE_HZ))).text == f"{QUESTIONS[5]} {QUESTIONS[7]}"
        sine = np.sin(np.arange(30 * RATE_HZ) ** 1.5 / 1e4).astype(np.float32)
        assert engine.transcribe(Speech((sine, RATE_HZ))).duration_s == 30


def test_nobody_speaks(engine: Engine) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * RATE_HZ).astype(np.float32)
    for samples in (np.zeros(10 * RATE_HZ, np.float32), noise):
        said = engine.transcribe(Speech((samples, RATE_HZ)))
        assert (said.text, said.segments, said.words) == ("", (), ())
        assert said.duration_s == len(samples) / RATE_HZ


@pytest.mark.slow
def test_asyncio_gives_the_same(engine: Engine) -> None:
    numbers = [0, 5, 7, 3]
    samples, _ = with_pauses(numbers, 1.0)
    whole = engine.transcribe(Speech((samples, RATE_HZ)))

    async def main() -> None:
        fresh = Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20, max_num_waiting=2)
        async with AsyncEngine.from_engine(fresh) as served:
            assert await served.transcribe(Speech((samples, RATE_HZ))) == whole
            async with aclosing(served.stream_transcript(Speech((samples, RATE_HZ)))) as segments:
                streamed = [segment async for segment in segments]
            assert tuple(streamed) == whole.segments
            async with aclosing(served.stream_transcript(Speech((samples, RATE_HZ)))) as segments:
                async for _ in segments:
                    break
            await asyncio.sleep(0.2)
            assert served.health().num_running == served.health().num_waiting == 0
            with pytest.raises(InvalidRequest, match="speech: audio: these bytes: expected wav"):
                await served.transcribe(Speech(b"no sound at all"))
            engine_ = served.engine
            engine_._intake._config = type(engine_.config)(max_num_waiting=1)
            engine_._intake.check_room = overloaded  # type: ignore[method-assign]
            with pytest.raises(EngineOverloaded):
                await served.transcribe(Speech((samples, RATE_HZ)))
        with pytest.raises(EngineDead):
            await served.transcribe(Speech((samples, RATE_HZ)))

    run(main())


def overloaded(num_preparing: int = 0) -> None:
    raise EngineOverloaded("too many")


@pytest.mark.parametrize(
    ("speech", "error"),
    [
        ("question.wav", "speech: expected Speech, got str"),
        (Speech("nowhere.wav"), "speech: audio: no such file: nowhere.wav"),
        (Speech(b""), "speech: audio: these bytes: expected wav, .* got nothing"),
        (Speech((np.zeros(0, np.float32), 16000)), "speech: audio: expected at least one sample"),
        (Speech((np.zeros(3601 * 10, np.float32), 10)), "speech: audio: expected at most 3600 s"),
    ],
)
def test_what_cannot_be_transcribed(engine: Engine, speech: Speech, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        engine.transcribe(speech)


@pytest.mark.slow
def test_limits_are_its_own() -> None:
    limits = InputLimits(max_audio_s=1, max_transcribed_s=2)
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20, limits=limits) as engine:
        with pytest.raises(InvalidRequest, match="expected at most 2 s"):
            engine.transcribe(Speech(FILES[4]))
        with pytest.raises(AntiphonError, match=r"could not be transcribed: .*at most 1 s"):
            engine.transcribe(Speech(FILES[0]))


def test_without_a_codec_nothing_is_heard() -> None:
    with load() as engine, pytest.raises(InvalidRequest, match="no codec is loaded"):
        engine.transcribe(Speech(FILES[0]))


@given(st.lists(st.sampled_from([b" a", b"b", b" ", b"\xe2\x82", b"\xac", b"", b"\n\xc3\xa9"]), max_size=12))
def test_words_are_the_text_cut_at_spaces(tokens: list[bytes]) -> None:
    spans = [(3 * i, 3 * i + 2) for i in range(len(tokens))]
    words = words_of(range(len(tokens)), spans, tokens.__getitem__, 10.0)
    joined = b"".join(tokens).decode("utf-8", "replace")
    if "\ufffd" not in joined:
        assert "".join("".join(word.text for word in words).split()) == "".join(joined.split())
    assert all(isinstance(word, Word) and word.text and 10 <= word.start_s < word.end_s for word in words)
