"""Other wordings of the world's questions keep meaning and split, and the seed decides them."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from antiphon_tiny.omni.listening_training import _draw_spoken, spoken_sample
from antiphon_tiny.omni.spoken import Utterance
from antiphon_tiny.outside.questions import questions
from antiphon_tiny.speech import augment, sentences
from antiphon_tiny.world import samples, talking, wordings
from antiphon_tiny.world.knowing import UNKNOWN
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.words import NAMES, NUMBERS, words_of

TURNS = [turn for sample in samples.draw_samples(3000, "train", 0) for turn in sample.turns]
EXAMINED = {" ".join(words_of(question.text)) for question in questions() if not question.scene}


def test_the_seed_decides() -> None:
    first, again, other = (
        [wordings.as_typed(rng, turn.question) for turn in TURNS] for rng in map(random.Random, (0, 0, 1))
    )
    assert first == again
    assert first != other


def test_they_are_many_and_not_all() -> None:
    rng = random.Random(0)
    changed = [wordings.reworded(rng, turn.question) != turn.question for turn in TURNS]
    assert 0.2 < np.mean(changed) < 0.6
    sums = Counter(
        wordings.reworded(rng, "What is three plus four?").replace("three", "{}").replace("four", "{}")
        for _ in range(400)
    )
    assert len(sums) > 12
    assert sums.most_common(1)[0][1] < 300


def test_nothing_of_the_examination_is_made() -> None:
    rng = random.Random(2)
    for turn in TURNS:
        for text in (
            *wordings.ways(turn.question),
            *(wordings.reworded(rng, turn.question) for _ in range(3)),
        ):
            assert text == turn.question or " ".join(words_of(text)) not in EXAMINED


def test_a_split_is_kept() -> None:
    rng = random.Random(3)
    for turn in TURNS:
        assert is_held_out(wordings.reworded(rng, turn.question)) == is_held_out(turn.question)


def test_sums_keep_their_numbers_and_their_direction() -> None:
    rng = random.Random(4)
    seen = 0
    for _ in range(600):
        turn = talking.ask_sum(rng)
        asked = [word for word in words_of(turn.question) if word in NUMBERS]
        is_minus = "minus" in turn.question
        for text in wordings.ways(turn.question):
            seen += 1
            said = [word for word in words_of(text) if word in NUMBERS]
            taken = text.startswith("Take ")
            assert said == (asked[::-1] if taken else asked)
            assert is_minus is any(word in text for word in ("minus", "less", "Take", "without", "give away"))
    assert seen > 2000


@pytest.mark.parametrize(
    ("question", "way"),
    [
        ("Where is the red star?", "Where in the picture is the red star?"),
        ("How many big circles are there?", "Tell me how many big circles you see."),
        ("Say after me a cold cake.", "Say it after me: a cold cake."),
        ("My name is Anna.", "They call me Anna."),
        ("What is the capital of Spain?", "What's the capital of Spain?"),
        ("What comes after ten?", "What is the number after ten?"),
    ],
)
def test_a_question_has_these_ways(question: str, way: str) -> None:
    found = wordings.ways(question)
    assert way in found or " ".join(words_of(way)) in EXAMINED
    assert len(found) == len(set(found))
    assert question not in found


def test_numbers_are_typed_in_digits() -> None:
    rng = random.Random(5)
    typed = {wordings.in_digits(rng, "What is Seven plus eleven?") for _ in range(50)}
    assert typed == {"What is 7 plus 11?", "What is 7+11?", "What is 7 + 11?"}
    assert wordings.in_digits(random.Random(0), "Is anyone there?") == "Is anyone there?"


def test_manners_and_fillers_leave_the_question_in_one_piece() -> None:
    rng = random.Random(6)
    found = {wordings.reworded(rng, "Is there a red cross?") for _ in range(300)}
    assert any(text.endswith("is there a red cross?") for text in found)
    assert all(text.endswith(("?", ".")) for text in found)
    assert not any("I would like" in wordings.reworded(rng, "Good night.") for _ in range(300))


def test_what_is_to_be_said_after_somebody_is_read_off_the_question() -> None:
    rng = random.Random(7)
    for _ in range(300):
        turn = talking.ask_to_say(rng)
        back = wordings.said_back(turn.question)
        assert back is not None
        assert back.answer == turn.answer or turn.question.startswith("Please say after me")
    for question in ("What is red?", "Say something funny", "Hello."):
        assert wordings.said_back(question) is None


def test_questions_outside_are_not_known_and_different() -> None:
    rng = random.Random(8)
    asked = [wordings.ask_outside(rng) for _ in range(400)]
    assert {turn.answer for turn in asked} == {UNKNOWN}
    assert len({turn.question for turn in asked}) > 100
    assert not EXAMINED & {" ".join(words_of(turn.question)) for turn in asked}


def test_names_sums_and_wordings_are_spoken() -> None:
    texts = sentences.draw(4000, "0 test", world_share=0.75, held_out=False)
    telling = ("My name is", "I am ", "Hello I am", "You can call me", "Call me")
    told = [text for text in texts if text.startswith(telling) and text.rstrip(".").split()[-1] in NAMES]
    assert len(told) >= 30
    assert sum("my name" in text.lower() for text in texts) > 25
    assert sum(text.startswith(("And plus", "And minus")) for text in texts) > 10
    assert sum("'s " in text for text in texts) > 20
    assert all(not any(mark.isdigit() for mark in text) for text in texts)
    assert texts == sentences.draw(4000, "0 test", world_share=0.75, held_out=False)


class Spoken:
    """Everything that a list of sentences says, as if it had been spoken."""

    def __init__(self, texts: list[str]) -> None:
        self.by_text = {text: [Utterance(text, [0] * 50, [1])] for text in texts}
        self.to_say = [turn for text in texts if (turn := wordings.said_back(text)) is not None]


def test_names_and_what_is_to_be_said_are_listened_to() -> None:
    spoken = Spoken(sentences.draw(6000, "1 test", world_share=0.75, held_out=False))
    rng = random.Random(9)
    topics: Counter[str] = Counter()
    worded = 0
    for _ in range(400):
        one = spoken_sample(rng, spoken.by_text, lambda: _draw_spoken(rng, spoken))  # type: ignore[arg-type]
        if one is not None:
            topics[one.sample.topic] += 1
            for turn, said in zip(one.sample.turns, one.questions, strict=True):
                worded += said.text != turn.question
                assert said.text in (turn.question, *wordings.ways(turn.question))
    assert topics["say"] > 0.1 * topics.total()
    assert topics["name asked"] > 0.05 * topics.total()
    assert worded > 10


def test_clips_have_silence_around_and_between_their_sounds() -> None:
    tone = np.sin(np.arange(16000) * 0.3).astype(np.float32)
    ends = np.array([0.25, 0.5, 0.75, 1.0])
    added, inner = [], 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        clip, plain = augment.moved_in_time(augment.Clip(tone, ends), tone, rng)
        assert plain is not None
        assert np.array_equal(clip.samples, plain)
        assert clip.ends_s is not None
        assert np.all(np.diff(clip.ends_s) > 0)
        loud = np.flatnonzero(np.abs(clip.samples) > 1e-3)
        added += [loud[0] / 16000, (len(clip.samples) - loud[-1]) / 16000]
        assert abs(clip.ends_s[-1] - loud[-1] / 16000) < 0.01
        inner += bool(np.diff(loud).max() > 500)
    assert 0.6 < np.mean(np.array(added) < 0.4) < 0.95
    assert max(added) > 1.0
    assert 0.1 < inner / 400 < 0.3
    without, _ = augment.moved_in_time(augment.Clip(tone, None), None, np.random.default_rng(0))
    assert without.ends_s is None
    assert len(without.samples) > 12000
