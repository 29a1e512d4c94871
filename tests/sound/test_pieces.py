"""Recordings are cut at pauses, and nothing that may be speech is left out."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.sound.arrays import AudioArray
from antiphon.sound.pieces import TARGET_S, Piece, cut_into_pieces
from antiphon.sound.reading import read_audio

QUESTION, RATE_HZ = read_audio(str(files("antiphon.assets") / "demo" / "question.wav"))
RNG = np.random.default_rng(0)
HUM = (0.3 * np.sin(2 * np.pi * 50 * np.arange(48000) / RATE_HZ)).astype(np.float32)


def quiet(seconds: float, level: float = 0.0) -> AudioArray:
    noise: AudioArray = RNG.normal(0, level, int(seconds * RATE_HZ)).astype(np.float32)
    return noise


def joined(*parts: AudioArray) -> AudioArray:
    whole: AudioArray = np.concatenate(parts)
    return whole


def check(samples: AudioArray, rate_hz: int, pieces: list[Piece], longest_s: float) -> None:
    """In order, disjoint, and short enough."""
    done = 0
    for piece in pieces:
        assert done <= piece.start <= piece.loud_start < piece.loud_end <= piece.end <= len(samples)
        assert piece.end - piece.start <= longest_s * rate_hz + 1
        done = piece.end


def test_a_question_is_one_piece_and_whole() -> None:
    [piece] = cut_into_pieces(QUESTION, RATE_HZ)
    assert (piece.start, piece.end) == (0, len(QUESTION))
    assert 0.2 < piece.loud_start / RATE_HZ < 0.3


@pytest.mark.parametrize("level", [0.0, 0.003])
@pytest.mark.parametrize("gap_s", [0.5, 1.0, 2.0, 30.0])
def test_a_pause_ends_a_piece(gap_s: float, level: float) -> None:
    whole = joined(QUESTION, quiet(gap_s), QUESTION, quiet(gap_s), QUESTION)
    pieces = cut_into_pieces(whole + quiet(200.0, level)[: len(whole)], RATE_HZ)
    check(whole, RATE_HZ, pieces, TARGET_S)
    assert len(pieces) == 3
    period = len(QUESTION) + int(gap_s * RATE_HZ)
    for index, piece in enumerate(pieces):
        assert abs(piece.loud_start - pieces[0].loud_start - index * period) < 0.05 * RATE_HZ


@pytest.mark.parametrize(
    "nothing",
    [quiet(5.0), quiet(60.0, 0.1), HUM, quiet(0.001)],
    ids=["silence", "noise", "hum", "a few samples"],
)
def test_nobody_speaks(nothing: AudioArray) -> None:
    assert cut_into_pieces(nothing, RATE_HZ) == []


def test_a_quiet_speaker_between_loud_ones_is_heard() -> None:
    faint: AudioArray = QUESTION * np.float32(0.005)
    whole = joined(QUESTION, quiet(3.0), faint, quiet(3.0), QUESTION)
    middle = len(QUESTION) + 3 * RATE_HZ + len(QUESTION) // 2
    pieces = cut_into_pieces(whole, RATE_HZ)
    assert any(piece.start < middle < piece.end for piece in pieces)


@pytest.mark.parametrize("longest_s", [TARGET_S, 5.0, 1.0])
def test_who_never_pauses_is_cut_where_it_is_quietest(longest_s: float) -> None:
    """The joints between repetitions, of a tenth of a second and much too short for a pause."""
    core = QUESTION[int(0.1 * RATE_HZ) : int(1.45 * RATE_HZ)]
    joint = quiet(0.1)
    whole = joined(*[part for _ in range(30) for part in (core, joint)])
    pieces = cut_into_pieces(whole, RATE_HZ, longest_s)
    check(whole, RATE_HZ, pieces, longest_s)
    assert all(before.end == after.start for before, after in pairwise(pieces))
    if longest_s > 2.0:
        period = len(core) + len(joint)
        for piece in pieces[:-1]:
            assert len(core) - 0.06 * RATE_HZ <= piece.end % period or piece.end % period < 0.06 * RATE_HZ


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["speech", "silence", "noise"]), st.floats(0.001, 4), st.floats(1e-3, 1)),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.5, 30),
    st.sampled_from([4000, 8000, 16000]),
)
def test_whatever_comes(parts: list[tuple[str, float, float]], longest_s: float, rate_hz: int) -> None:
    sounds = {"speech": np.tile(QUESTION, 3), "silence": quiet(4.1), "noise": quiet(4.1, 0.3)}
    whole = joined(*[sounds[kind][: int(s * RATE_HZ)] * np.float32(gain) for kind, s, gain in parts])
    pieces = cut_into_pieces(whole, rate_hz, longest_s)
    check(whole, rate_hz, pieces, longest_s)
