"""How much of a text its speech has begun, unit by unit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.assets.embedded import EMBEDDED_MODEL
from antiphon.outputs.spoken_text import SpokenText
from antiphon.sched.speaking import SpeakingState
from antiphon.text.tokenizer import Tokenizer


class Speaker:
    """A reply of these texts, each of one or more tokens, whose units are read back as `hear` says."""

    def __init__(self, tokenizer: Tokenizer, *texts: str, lag: int = 3) -> None:
        self.tokenizer = tokenizer
        blank, eot = tokenizer.token_id("<|reserved_special_token_0|>"), tokenizer.token_id("<|eot_id|>")
        assert blank is not None and eot is not None
        self.blank, self.eot = blank, eot
        self.ids = [token for text in texts for token in tokenizer.encode(text)] + [eot]
        speaking = SpeakingState(
            blank=blank, eot=eot, lag=lag, carries_speech=tokenizer.carries_speech, text_input=False
        )
        self.request = cast(Any, SimpleNamespace(text_ids=self.ids, speaking=speaking))
        speaking.consume(self.ids, text_ended=True)
        self.spoken = SpokenText(self.request, tokenizer, blank)

    def hear(self, *labels: str) -> list[int]:
        """The numbers of characters after these labels, "" for a blank."""
        for label in labels:
            self.read_back(self.tokenizer.encode(label)[0] if label else self.blank)
        self.spoken.advance()
        return self.spoken.num_chars[len(self.spoken.num_chars) - len(labels) :]

    def read_back(self, label: int) -> None:
        self.request.speaking.read_back(label)
        self.request.speaking.consume(self.ids, text_ended=True)

    @property
    def num_asked_for(self) -> int:
        """Characters that speech has asked for."""
        return len(self.tokenizer.decode(self.ids[: self.request.speaking.num_consumed]).strip())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(EMBEDDED_MODEL)


def test_each_new_label_begins_an_entry(tokenizer: Tokenizer) -> None:
    speaker = Speaker(tokenizer, "One", " two", " three", ".")
    assert speaker.spoken.by_the_end_of(0) == 0
    assert speaker.hear("", "One", "One", "", " two", " three") == [0, 3, 3, 3, 7, 13]
    assert speaker.spoken.by_the_end_of(4) == 7
    assert speaker.spoken.by_the_end_of(100) == 13, "as far as is known"
    assert speaker.hear("") == [13]
    assert speaker.hear(".", "", " four") == [14, 14, 14], "there is no more"


def test_labels_that_are_no_text_of_the_reply_are_counted(tokenizer: Tokenizer) -> None:
    speaker = Speaker(tokenizer, "One", " two", " three", ".")
    assert speaker.hear(" is", "", " of", " of", "", " the", " is") == [3, 3, 7, 7, 7, 13, 14]


def test_labels_that_are_text_of_the_reply_decide(tokenizer: Tokenizer) -> None:
    """One label too few or too many does not put off all that follows."""
    speaker = Speaker(tokenizer, "One", " two", " three", " four", " five", ".")
    assert speaker.hear("One", " three") == [3, 13], "two was missed"
    assert speaker.hear(" of", " four") == [18, 18], "what was heard before four was nothing"
    assert speaker.hear(" five", "") == [23, 23]


def test_a_word_that_is_said_twice(tokenizer: Tokenizer) -> None:
    """Across a blank, which is no new label to the fusion."""
    speaker = Speaker(tokenizer, "One", " two", " two", " three")
    assert speaker.hear("One", " two", " two", "", " two", "", " three") == [3, 7, 7, 7, 11, 11, 17]
    once = Speaker(tokenizer, "One", " two", " three")
    assert once.hear("One", " two", "", " two", " three") == [3, 7, 7, 7, 13]


def test_a_unit_begins_only_what_it_could_attend_to(tokenizer: Tokenizer) -> None:
    speaker = Speaker(tokenizer, "One", " two", " three", " four", " five", lag=1)
    assert speaker.hear(" five") == [3], "it was given One alone"
    assert speaker.hear(" four") == [7]


def test_text_without_speech_belongs_to_what_follows(tokenizer: Tokenizer) -> None:
    """White space, and an emoji, whose tokens are parts of a character."""
    speaker = Speaker(tokenizer, "\n", "One", "\n", "\n", " two", " \N{GRINNING FACE}", " three")
    text = tokenizer.decode(speaker.ids).strip()
    assert speaker.hear("One", " two") == [3, 9]
    assert speaker.hear(" three") == [len(text)] == [17]


def test_a_fault_changes_nothing(tokenizer: Tokenizer) -> None:
    speaker, other = (Speaker(tokenizer, "One", " two", " three", ".") for _ in range(2))
    labels = ["", "One", "", " two", " of", ""]
    whole = other.hear(*labels)
    found = speaker.hear(*labels[:3])
    speaker.request.speaking = speaker.request.speaking.again(speaker.ids, text_ended=True)
    assert found + speaker.hear(*labels[3:]) == whole


def test_a_reply_that_is_not_spoken(tokenizer: Tokenizer) -> None:
    request = cast(Any, SimpleNamespace(text_ids=[1, 2], speaking=None))
    spoken = SpokenText(request, tokenizer, 0)
    spoken.advance()
    assert (spoken.num_chars, spoken.by_the_end_of(3)) == ([], 0)


TEXTS = ["One", " two", " two", "\n", " ", ".", "\N{GRINNING FACE}", "caf\u00e9", "\u4f60", "#"]


@given(
    texts=st.lists(st.sampled_from(TEXTS), max_size=12),
    labels=st.lists(st.sampled_from(["", "", "One", " two", ".", " the"]), max_size=30),
    lag=st.integers(1, 5),
)
def test_it_never_falls_nor_exceeds_the_text(
    tokenizer: Tokenizer, texts: list[str], labels: list[str], lag: int
) -> None:
    speaker = Speaker(tokenizer, *texts, lag=lag)
    numbers = [0]
    for label in labels:
        before = speaker.num_asked_for
        numbers += speaker.hear(label)
        assert numbers[-2] <= numbers[-1] <= before
    again = Speaker(tokenizer, *texts, lag=lag)
    assert again.hear(*labels) == numbers[1:], "however many become known at a time"
