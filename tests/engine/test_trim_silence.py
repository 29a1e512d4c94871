"""Silence around and within speech changes neither what is heard nor when it is said to have been said."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from serving import assert_nothing_held, collect, run

from antiphon import AsyncEngine, Completion, Engine, Finished, Request, SamplingParams, Speech, Units
from antiphon.codec import read_audio
from antiphon.errors import InvalidRequest

QUESTION, RATE_HZ = read_audio(str(files("antiphon.assets") / "demo" / "question.wav"))
ASKED = "What is in the picture?"
SHORT = SamplingParams(max_tokens=8)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(device="cpu", progress=False, kv_cache_bytes=64 << 20) as engine:
        yield engine


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE_HZ), np.float32)


def surrounded(before_s: float, after_s: float, snr_db: float | None = None) -> np.ndarray:
    whole = np.concatenate([quiet(before_s), QUESTION, quiet(after_s)])
    if snr_db is None:
        return whole
    level = float(np.sqrt(np.square(QUESTION).mean())) * 10 ** (-snr_db / 20)
    noise: np.ndarray = np.random.default_rng(1).normal(0, level, len(whole)).astype(np.float32)
    noisy: np.ndarray = whole + noise
    return noisy


def heard(engine: Engine, *parts: Speech | Units) -> Completion:
    [done] = engine.generate([Request(list(parts), ("transcript",))])
    assert_nothing_held(engine)
    return done


@pytest.mark.parametrize("snr_db", [None, 30])
@pytest.mark.parametrize(("before_s", "after_s"), [(0.5, 0.0), (3.0, 3.0), (0.0, 2.0), (1.0, 1.0)])
def test_a_question_is_heard_in_silence(
    engine: Engine, before_s: float, after_s: float, snr_db: float | None
) -> None:
    done = heard(engine, Speech((surrounded(before_s, after_s, snr_db), RATE_HZ)))
    assert done.transcript == ASKED


def test_it_can_be_left_in(engine: Engine) -> None:
    assert engine.codec is not None
    sound = surrounded(2.0, 2.0)
    whole, cut = (heard(engine, Speech((sound, RATE_HZ), trim)) for trim in (False, True))
    assert whole.metrics.num_prompt_units >= 25 * len(sound) // RATE_HZ
    assert cut.metrics.num_prompt_units < 25 * 2
    assert whole.transcript != ASKED
    with pytest.raises(InvalidRequest, match=r"trim_silence: expected True or False, got 'no'"):
        engine.inputs.process(Request(Speech((sound, RATE_HZ), "no"), ("transcript",)))  # type: ignore[arg-type]


def test_words_are_where_they_were_said(engine: Engine) -> None:
    """Behind two seconds of silence, and after another recording and units, each label lies two seconds later
    or as much later as they last."""
    plain = heard(engine, Speech((QUESTION, RATE_HZ))).transcript_spans
    after_silence = heard(engine, Speech((surrounded(2.0, 1.0), RATE_HZ))).transcript_spans
    assert len(after_silence) == len(plain)
    for (start, end), (own_start, own_end) in zip(after_silence, plain, strict=True):
        assert abs(start - own_start - 50) <= 5
        assert abs(end - own_end - 50) <= 5
    both = heard(
        engine,
        Speech((surrounded(1.0, 2.0), RATE_HZ)),
        Units((1,) * 25),
        Speech((surrounded(2.0, 0), RATE_HZ)),
    ).transcript_spans
    assert all(before[1] <= after[0] for before, after in pairwise(both))
    length_s = (len(QUESTION) * 2 + 5 * RATE_HZ) / RATE_HZ + 1
    assert length_s - 1.5 < both[-1][1] / 25 <= length_s


def test_a_recording_in_pieces_has_right_times(engine: Engine) -> None:
    sound = np.concatenate([surrounded(2.0, 3.0), surrounded(0.0, 0.3), surrounded(0.0, 4.0)])
    said = engine.transcribe(Speech((sound, RATE_HZ)))
    assert "what is in the picture" in said.text.lower()
    first = said.words[0]
    assert 2.0 < first.start_s < 3.0
    assert len(sound) / RATE_HZ - 4.8 < said.words[-1].end_s < len(sound) / RATE_HZ - 3.0


def test_a_session_hears_the_same() -> None:
    sound = surrounded(1.5, 1.5)
    length = 25 * len(sound) // RATE_HZ

    async def main() -> None:
        async with AsyncEngine(device="cpu", progress=False, kv_cache_bytes=64 << 20) as engine:
            for trim in (None, True, False):
                whole = await engine.generate(Request(Speech((sound, RATE_HZ), trim)), SHORT)
                async with engine.open(Request(Units(())), SHORT, trim_silence=trim) as session:
                    for begin in range(0, len(sound), 3000):
                        await session.push_audio(sound[begin : begin + 3000], RATE_HZ)
                    units = await session.peek_units()
                    assert session.sound_units(len(units)) == (len(units) if trim is False else length)
                    await session.commit()
                    events = await collect(session)
                [done] = [event.completion for event in events if isinstance(event, Finished)]
                assert (done.transcript, done.text_ids) == (whole.transcript, whole.text_ids)
            with pytest.raises(InvalidRequest, match="trim_silence: expected True or False"):
                engine.open(Request(Units(())), trim_silence=1)  # type: ignore[arg-type]

    run(main())
