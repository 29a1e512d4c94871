"""The packaged model, judged by meaning: it is asked questions that its training has not seen.

The sounds, pictures and answers are written by `python recipes/tiny/make.py run media`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon import Completion, Engine, Image, Message, Request, SamplingParams, Speech
from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon.types import Part

QUESTIONS = Path(__file__).parents[1] / "golden" / "spoken_questions"
PARAMS = SamplingParams(max_tokens=40, max_units=375)
LARGEST_BYTES = 40_000_000


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(device="cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((QUESTIONS / "questions.json").read_text())
    return found


@pytest.fixture(scope="module")
def answers(engine: Engine, questions: list[dict[str, Any]]) -> list[Completion]:
    return engine.generate([spoken(question) for question in questions], PARAMS)


def spoken(question: dict[str, Any]) -> Request:
    parts: list[Part] = [Speech(QUESTIONS / question["sound"])]
    if question["picture"] is not None:
        parts.insert(0, Image(QUESTIONS / question["picture"]))
    return Request(parts, modalities=("text", "audio"))


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


@pytest.mark.slow
def test_ten_spoken_questions_are_heard(questions: list[dict[str, Any]], answers: list[Completion]) -> None:
    assert len(questions) == 10
    heard = [words(done.transcript) for done in answers]
    said = [words(question["question"]) for question in questions]
    assert sum(one == other for one, other in zip(heard, said, strict=True)) >= 9
    assert all(set(other) <= set(one) for one, other in zip(heard, said, strict=True)), "a word was missed"


@pytest.mark.slow
def test_ten_spoken_questions_are_answered_right(
    questions: list[dict[str, Any]], answers: list[Completion]
) -> None:
    assert [words(done.text) for done in answers] == [words(q["answer"]) for q in questions]


@pytest.mark.slow
def test_the_answers_are_spoken_to_their_end(answers: list[Completion]) -> None:
    """No reply runs away, none is silent, and none is out of all proportion to its text."""
    for done in answers:
        assert done.finish_reason == "stop"
        assert done.audio is not None
        assert done.sample_rate_hz is not None
        seconds = len(done.audio) / done.sample_rate_hz
        assert 0.15 * len(words(done.text)) < seconds < 1.0 + 0.7 * len(words(done.text)), done.text
        assert float(np.abs(done.audio).max()) > 0.05


def test_it_is_small() -> None:
    folders = (EMBEDDED_MODEL, EMBEDDED_CODEC)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LARGEST_BYTES


def test_what_it_does_not_know_it_says(engine: Engine) -> None:
    [done] = engine.generate([Request("Who is John?")], PARAMS)
    assert words(done.text) == words("I don't know that.")


def test_it_remembers_what_was_said_before(engine: Engine) -> None:
    said = [Message("user", "How much is two plus three?"), Message("assistant", "Two plus three is five.")]
    [done] = engine.generate([Request(messages=[*said, Message("user", "And plus one?")])], PARAMS)
    assert "six" in words(done.text)


def test_no_file_tells_where_it_was_made() -> None:
    """No lines of a program that stood in some folder, as exporters note them."""
    folders = (EMBEDDED_CODEC, EMBEDDED_MODEL)
    files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
    assert len(files) > 8
    assert not [file.name for file in files if b'.py", line ' in file.read_bytes()]
