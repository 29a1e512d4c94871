"""What is told of speech that is still coming in."""

from __future__ import annotations

import pytest
from checkpoints import RANDOM_MODEL
from fake_model import BLANK, STEADY
from growing_world import GrowingWorld

from antiphon import TranscriptUpdate
from antiphon.outputs.transcript import Hypothesis
from antiphon.sched.request import RequestState
from antiphon.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(RANDOM_MODEL)


def read(request: RequestState, labels: list[int | None]) -> None:
    request.prompt_labels = [None] * len(request.prompt_labels)
    for position, label in zip(request.prompt.unit_positions, labels, strict=True):
        request.prompt_labels[position] = label


def test_it_is_told_when_a_label_changes(tokenizer: Tokenizer) -> None:
    (letter,) = tokenizer.encode("a")
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3])
    hypothesis = Hypothesis(request, tokenizer, BLANK)

    def told(*labels: int | None) -> tuple[str, int, int] | None:
        read(request, list(labels))
        update = hypothesis.changed()
        assert hypothesis.changed() is None, "once"
        if update is None:
            return None
        assert isinstance(update, TranscriptUpdate)
        assert update.request_id == request.request_id
        return update.text, update.num_units, update.num_trailing_blanks

    assert told(None, None, None) is None
    assert told(BLANK, letter, None) is None, "not all has been read"
    assert told(BLANK, BLANK, BLANK) == ("", 3, 3), "nothing was heard, and that is told"
    assert told(BLANK, letter, BLANK) == ("a", 3, 1)
    assert told(letter, letter, BLANK) == ("a", 3, 1), "the text is the same"
    assert told(letter, BLANK, BLANK) == ("a", 3, 2)
    assert told(BLANK, BLANK, letter) == ("a", 3, 0)
    world.update_speech(request, [1])
    assert told(letter) == ("a", 1, 0)
    world.update_speech(request, [])
    assert told() == ("", 0, 0), "all of it was taken back"


def test_it_counts_the_last_message_alone(tokenizer: Tokenizer) -> None:
    (letter,) = tokenizer.encode("a")
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3, 4])
    assert request.prompt.num_last_units == 4
    object.__setattr__(request.prompt, "num_last_units", 2)
    read(request, [letter, letter, BLANK, BLANK])
    assert Hypothesis(request, tokenizer, BLANK).changed() == TranscriptUpdate(request.request_id, "", 2, 2)
