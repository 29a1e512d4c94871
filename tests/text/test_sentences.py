"""Texts are cut where a speaker would pause, and nothing of them is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.text.sentences import MAX_PIECE_CHARS, spoken_pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (" \n ", []),
        ("One two three.", ["One two three."]),
        ("It is red. Is it big? Yes it is!", ["It is red.", "Is it big?", "Yes it is!"]),
        ("Yes. It is red.", ["Yes. It is red."]),
        ("I saw Dr. Smith. He waved.", ["I saw Dr. Smith.", "He waved."]),
        ("Zero is 0.5 less. Is it?", ["Zero is 0.5 less.", "Is it?"]),
        ('He said "Go on." Then he left.', ['He said "Go on."', "Then he left."]),
        ("First line\nsecond line\n\nthird", ["First line", "second line", "third"]),
        ("你好。今天好吗?很好!", ["你好。", "今天好吗?很好!"]),
        ("你好。今天好吗?很好!".replace("?", "？"), ["你好。", "今天好吗？", "很好!"]),
        ("Wait ... what is it?", ["Wait ... what is it?"]),
    ],
)
def test_where_it_is_cut(text: str, pieces: list[str]) -> None:
    assert spoken_pieces(text) == pieces


def test_long_sentences_are_cut_at_commas_or_spaces_or_anywhere() -> None:
    at_commas = spoken_pieces(", ".join(["some words and more"] * 60))
    assert all(piece.endswith(",") for piece in at_commas[:-1])
    at_spaces = spoken_pieces("word " * 200)
    assert all(set(piece.split()) == {"word"} for piece in at_spaces)
    anywhere = spoken_pieces("x" * 1000)
    assert [len(piece) for piece in anywhere] == [300, 300, 300, 100]


@pytest.mark.slow
@given(st.text(st.sampled_from("ab.!? ,\n。A\"'…"), max_size=1500) | st.text(max_size=1000))
def test_nothing_is_lost(text: str) -> None:
    pieces = spoken_pieces(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == piece.strip() and 0 < len(piece) <= MAX_PIECE_CHARS for piece in pieces)
