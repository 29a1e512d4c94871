"""Silence is cut around speech and in its pauses, and never a word."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.sound.arrays import AudioArray
from antiphon.sound.reading import read_audio
from antiphon.sound.silence import LEAD_S, PAUSE_S, REST_S, without_silence

QUESTION, RATE_HZ = read_audio(str(files("antiphon.assets") / "demo" / "question.wav"))
WORDS_S = (0.28, 1.35)
"""Where the question is surely heard: its sounds reach a little further."""
NEAR_S = 0.1


def room(seconds: float, level: float = 0.0, seed: int = 0) -> AudioArray:
    noise: AudioArray = (
        np.random.default_rng(seed).normal(0, level, int(seconds * RATE_HZ)).astype(np.float32)
    )
    return noise


def joined(*parts: AudioArray) -> AudioArray:
    whole: AudioArray = np.concatenate(parts)
    return whole


def num_kept(samples: AudioArray) -> int:
    return sum(end - start for start, end in without_silence(samples, RATE_HZ))


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
@pytest.mark.parametrize(("before_s", "after_s"), [(0.25, 3.0), (0.5, 0.0), (3.0, 3.0), (20.0, 1.0)])
def test_speech_keeps_a_moment_of_the_silence_around_it(before_s: float, after_s: float, gain: float) -> None:
    whole = joined(room(before_s), QUESTION, room(after_s)) * np.float32(gain)
    [(start, end)] = without_silence(whole, RATE_HZ)
    first, last = before_s + WORDS_S[0], before_s + WORDS_S[1]
    assert first - LEAD_S - NEAR_S < start / RATE_HZ <= first
    assert last <= end / RATE_HZ < last + REST_S + 2 * NEAR_S


@pytest.mark.parametrize("silence_s", [0.0, 0.1, 0.25])
def test_little_silence_is_left(silence_s: float) -> None:
    core = QUESTION[int(WORDS_S[0] * RATE_HZ) : int(WORDS_S[1] * RATE_HZ)]
    whole = joined(room(silence_s), core, room(silence_s))
    assert without_silence(whole, RATE_HZ) == [(0, len(whole))]


@pytest.mark.parametrize("snr_db", [10, 20, 30])
@pytest.mark.parametrize("gap_s", [0.0, 1.0, 3.0])
def test_no_word_is_cut_in_a_noisy_room(snr_db: float, gap_s: float) -> None:
    whole = joined(room(gap_s), QUESTION, room(gap_s), QUESTION, room(gap_s))
    level = float(np.sqrt(np.square(QUESTION).mean())) * 10 ** (-snr_db / 20)
    stretches = without_silence(whole + room(60, level)[: len(whole)], RATE_HZ)
    period = gap_s + len(QUESTION) / RATE_HZ
    for index in range(2):
        first, last = (gap_s + index * period + at for at in WORDS_S)
        assert any(start / RATE_HZ <= first and last <= end / RATE_HZ for start, end in stretches)
    kept_s = sum(end - start for start, end in stretches) / RATE_HZ
    assert kept_s < 2 * (len(QUESTION) / RATE_HZ + LEAD_S + REST_S)


def test_a_short_pause_is_left_and_a_long_one_is_cut() -> None:
    core = QUESTION[int(WORDS_S[0] * RATE_HZ) : int(WORDS_S[1] * RATE_HZ)]
    short = joined(core, room(PAUSE_S - 0.2), core)
    assert num_kept(short) >= len(short) - RATE_HZ // 50
    kept = [num_kept(joined(core, room(seconds), core)) for seconds in (1.0, 5.0)]
    assert abs(kept[1] - kept[0]) < 0.05 * RATE_HZ
    assert kept[1] < 2 * len(core) + (LEAD_S + REST_S + 2 * NEAR_S) * RATE_HZ


def test_a_soft_voice_after_a_loud_one_is_kept() -> None:
    soft: AudioArray = QUESTION * np.float32(0.1)
    whole = joined(QUESTION, room(2.0), soft, room(2.0))
    at_s = len(QUESTION) / RATE_HZ + 2.0
    _, (start, end) = without_silence(whole, RATE_HZ)
    assert start / RATE_HZ <= at_s + WORDS_S[0]
    assert end / RATE_HZ >= at_s + WORDS_S[1]


@pytest.mark.parametrize(
    "nothing", [room(2.0), room(30.0, 0.1), room(0.001)], ids=["silence", "noise", "tiny"]
)
def test_nobody_speaks(nothing: AudioArray) -> None:
    assert without_silence(nothing, RATE_HZ) == []


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["speech", "silence", "noise"]), st.floats(0.001, 3), st.floats(1e-3, 1)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([4000, 8000, 16000]),
)
def test_stretches_are_in_order_and_apart(parts: list[tuple[str, float, float]], rate_hz: int) -> None:
    sounds = {"speech": np.tile(QUESTION, 3), "silence": room(3.1), "noise": room(3.1, 0.3)}
    whole = joined(*[sounds[kind][: int(s * RATE_HZ)] * np.float32(gain) for kind, s, gain in parts])
    stretches = without_silence(whole, rate_hz)
    assert all(0 <= start < end <= len(whole) for start, end in stretches)
    assert all(before[1] < after[0] for before, after in pairwise(stretches))
