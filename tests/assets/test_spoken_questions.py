"""Twenty questions that were written apart from training, asked by voice with silence around them.

Every sixteenth of `recipes/tiny/antiphon_tiny/outside/questions.txt`, in the speaking voice, as
`recipes/tiny/outside.py` asks them; the files in `spoken/` are in their order. Some are answered wrongly,
since training knew few ways to ask: what is asserted is how many are not, and that silence makes it no worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from antiphon import Completion, Engine, Image, Message, Request, SamplingParams, Speech
from antiphon.codec import read_audio
from antiphon_tiny.outside.drawings import draw
from antiphon_tiny.outside.questions import Question, questions, said
from antiphon_tiny.outside.rooms import RATE_HZ, Room
from antiphon_tiny.world.words import words_of

ASKED = questions()[::16]
SOUNDS = [read_audio(str(path))[0] for path in sorted((Path(__file__).parent / "spoken").glob("*.ogg"))]
PARAMS = SamplingParams(max_tokens=40)
ROOMS = {
    "half a second before": Room(0.5, 0.0),
    "three seconds before": Room(3.0, 0.0),
    "two seconds after": Room(0.0, 2.0),
    "a second at both ends": Room(1.0, 1.0),
    "a second at both ends, and noise": Room(1.0, 1.0, snr_db=30),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(device="cpu", progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(engine: Engine) -> list[Completion]:
    """As they were recorded."""
    return ask(engine, SOUNDS)


def ask(engine: Engine, sounds: Sequence[np.ndarray]) -> list[Completion]:
    requests = []
    for question, sound in zip(ASKED, sounds, strict=True):
        picture = [] if question.scene is None else [Image(draw(question.scene, "pure"))]
        asked = Message("user", [*picture, Speech((sound, RATE_HZ))])
        requests.append(Request(messages=[asked], modalities=("text",)))
    return engine.generate(requests, PARAMS)


def num_heard(done: Sequence[Completion]) -> int:
    """Of the words that were said, those that are in the transcripts: 118 if all are."""
    return sum(
        len(set(words_of(said(question.text))) & set(words_of(each.transcript)))
        for question, each in zip(ASKED, done, strict=True)
    )


def num_right(done: Sequence[Completion]) -> int:
    def is_right(question: Question, each: Completion) -> bool:
        return question.is_right(each.text)

    return sum(map(is_right, ASKED, done))


def test_there_are_twenty() -> None:
    assert len(ASKED) == len(SOUNDS) == 20


def test_as_they_are(plain: list[Completion]) -> None:
    assert num_heard(plain) >= 85
    assert num_right(plain) >= 11


@pytest.mark.parametrize("room", ROOMS)
def test_silence_makes_them_no_worse(engine: Engine, plain: list[Completion], room: str) -> None:
    done = ask(engine, [ROOMS[room].heard(sound, index) for index, sound in enumerate(SOUNDS)])
    assert num_heard(done) >= num_heard(plain) - 4
    assert num_right(done) >= num_right(plain) - 2
