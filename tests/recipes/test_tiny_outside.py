"""The examination from outside: its questions, pictures and rooms, and how answers are judged."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from antiphon_tiny.outside.drawings import PLACES, SHAPES, STYLES, draw, things_in
from antiphon_tiny.outside.questions import Question, dialogues, questions, said
from antiphon_tiny.outside.rooms import RATE_HZ, Room, joined, paused
from antiphon_tiny.world.knowing import KNOWN_QUESTIONS
from antiphon_tiny.world.talking import TALK
from antiphon_tiny.world.words import NUMBERS, words_of

SCENE = "big red circle left, small blue star right"


def test_there_are_enough_of_them_and_none_twice() -> None:
    assert len(questions()) >= 300
    assert len({question.text for question in questions() if not question.scene}) == sum(
        not question.scene for question in questions()
    )
    assert len(set(dialogues())) == 60
    assert all(len(talk.turns) > 1 for talk in dialogues())


def test_training_does_not_ask_them() -> None:
    closed = {" ".join(words_of(form)) for forms, _ in TALK for form in forms}
    closed |= {" ".join(words_of(form)) for form in KNOWN_QUESTIONS}
    typed = [" ".join(words_of(question.text)) for question in questions()]
    assert sum(text in closed for text in typed) < 0.05 * len(typed)


def test_every_kind_is_asked() -> None:
    counts = {rule: sum(question.rule == rule for question in questions()) for rule in ("exactly", "unknown")}
    assert min(counts.values()) >= 30
    assert sum(question.scene is not None for question in questions()) >= 60
    assert sum(question.rule == "number" for question in questions()) >= 40


def test_their_answers_are_words_that_an_answer_may_have() -> None:
    for question in (*questions(), *dialogues()):
        assert (question.rule == "unknown") is (not question.accepted)
        for phrase in question.accepted:
            assert words_of(phrase) == phrase.split()
        if question.rule == "number":
            assert set(question.accepted) <= set(NUMBERS)


def test_an_accepted_answer_is_right() -> None:
    for question in (*questions(), *dialogues()):
        for phrase in question.accepted:
            assert question.is_right(phrase.capitalize() + ".")
        assert question.is_right("I don't know that.") is (question.rule == "unknown")


@pytest.mark.parametrize(
    ("rule", "accepted", "answer", "is_right"),
    [
        ("number", "seven", "Three plus four is seven.", True),
        ("number", "seven", "3 plus 4 is 7.", True),
        ("number", "seven", "Seven plus one is eight.", False),
        ("number", "seven", "Hello.", False),
        ("has", "top left", "It is at the top left.", True),
        ("has", "top left", "It is at the left.", False),
        ("has", "no", "I don't know that.", False),
        ("has", "no", "There are no squares.", True),
        ("exactly", "a warm coat", "A warm coat.", True),
        ("exactly", "a warm coat", "A warm coat coat.", False),
        ("unknown", "", "I don't know that.", True),
        ("unknown", "", "It is red.", False),
    ],
)
def test_answers_are_judged_by_what_they_say(rule: str, accepted: str, answer: str, is_right: bool) -> None:
    question = Question(("?",), rule, (accepted,))  # type: ignore[arg-type]
    assert question.is_right(answer) is is_right


def test_what_is_said_aloud_has_no_digits() -> None:
    assert said("What is 12 - 5?") == "What is twelve minus five?"
    assert said("2+2?") == "two plus two?"
    for question in questions():
        assert not any(mark.isdigit() or mark == "+" for mark in said(question.text))
        assert words_of(said(question.text)) == [
            NUMBERS[int(word)] if word.isdigit() else word
            for word in words_of(
                question.text.replace("+", " plus ").replace(" - ", " minus ").replace("%", " per cent ")
            )
        ]


def test_scenes_are_drawn_in_four_ways() -> None:
    assert len(STYLES) == 4
    pictures = [np.asarray(draw(SCENE, style), np.int16) for style in STYLES]
    for one, other in combinations(pictures, 2):
        assert np.abs(one - other).mean() > 2
    for style, picture in zip(STYLES, pictures, strict=True):
        assert np.array_equal(picture, np.asarray(draw(SCENE, style), np.int16))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_lies_where_it_should(style: str, kind: str) -> None:
    for place in PLACES:
        [thing] = things_in(f"big red {kind} {place}")
        picture = np.asarray(draw(f"big red {kind} {place}", style), np.int16)
        red = picture[..., 0] - picture[..., 1:].max(axis=-1) > 50
        rows, columns = np.nonzero(red)
        assert len(rows) > 500
        middle = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
        assert np.abs(np.subtract(middle, thing.centre)).max() < 25


def test_all_scenes_can_be_drawn() -> None:
    scenes = {question.scene for question in (*questions(), *dialogues()) if question.scene}
    assert len(scenes) >= 10
    for scene in scenes:
        assert things_in(scene)
    with pytest.raises(ValueError, match="expected sizes, colours"):
        things_in("huge red circle left")


def tone(seconds: float) -> np.ndarray:
    sound: np.ndarray = np.sin(np.arange(int(seconds * RATE_HZ)) * 0.2).astype(np.float32)
    return sound


def test_a_room_adds_silence_and_noise() -> None:
    sound = tone(1.0)
    quiet = Room(0.5, 0.25).heard(sound, 0)
    assert len(quiet) == 1.75 * RATE_HZ
    assert np.array_equal(quiet[RATE_HZ // 2 : RATE_HZ * 3 // 2], sound)
    noisy = Room(0.5, 0.25, snr_db=10).heard(sound, 0)
    snr_db = 10 * np.log10(np.square(sound).mean() / np.square(noisy - quiet).mean())
    assert abs(snr_db - 10) < 0.5
    assert np.array_equal(noisy, Room(0.5, 0.25, snr_db=10).heard(sound, 0))


def test_a_pause_is_put_where_it_is_quietest() -> None:
    sound = np.concatenate([tone(0.5), np.zeros(RATE_HZ // 10, np.float32), tone(0.6)])
    longer = paused(sound, 1.0)
    assert len(longer) == len(sound) + RATE_HZ
    loud = np.flatnonzero(np.abs(longer) > 0.01)
    assert np.diff(loud).max() >= 1.1 * RATE_HZ - 400
    assert len(joined([sound, sound], 0.5)) == 2 * len(sound) + RATE_HZ


def test_unreadable_lines_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon_tiny.outside import questions as module

    monkeypatch.setattr(module, "FOLDER", tmp_path)
    for text, told in (
        ("What? = a\n", "line 1"),
        ("[has]\nWhat?\n", "line 2"),
        ("[sum]\n", "expected one of"),
    ):
        (tmp_path / "wrong.txt").write_text(text)
        module._read.cache_clear()
        with pytest.raises(ValueError, match=told):
            module._read("wrong.txt")
    module._read.cache_clear()
