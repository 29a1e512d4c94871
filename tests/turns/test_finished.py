"""Sentences read as finished, their beginnings mostly do not, whatever the punctuation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.turns.finished import Completeness, completeness

WHOLE = """
What time does the train leave tomorrow?
I would like to book a table for two people tonight.
Could you tell me where the nearest station is?
Where did you put the keys?
Turn on the lights in the kitchen.
Turn it on.
My name is Peter and I live in London.
I think we should go home before it rains.
How do I get to the airport from here?
Can you recommend a good restaurant?
The meeting was moved to next Thursday.
Remind me to call my mother at five.
Why is the sky blue?
Who is she?
How many are there?
Do you want tea or coffee?
She said that she would come later.
I have never been to Paris.
Please send the report to my manager.
When will the package arrive?
Is it going to rain this weekend?
What is the capital of France?
I lost my card yesterday and need a new one.
Which one is cheaper, the red one or the blue one?
Play some music.
How much does it cost?
I don't know what you mean.
There are three people in the room.
Set a timer for ten minutes.
What should I do?
That is not fair, is it? No.
Yes, thank you.
You like it, don't you?
""".strip().splitlines()
BEGUN = """
I would like to
Could you tell me
Could you tell me where the
Where did you
Where did you put
Turn on the
My name is Peter and
I think
I would like
Do you want tea or
She
She said that she
I have never been to
When will
Is the
Is there
Is the meeting
What kind of
Which train
How many people
Which one is cheaper, the red one
Tell me what time
I'm
Well, um
The reason was, well,
I went there because
If you see him, and
Let's
one, two,
I was thinking...
""".strip().splitlines()


@pytest.mark.parametrize("text", WHOLE)
def test_whole_sentences(text: str) -> None:
    for written in (text, text.rstrip("?.!"), text.lower(), f"I am here. {text}"):
        assert completeness(written) is Completeness.FINISHED


@pytest.mark.parametrize("text", BEGUN)
def test_beginnings(text: str) -> None:
    ended = () if text[-1] in ",." else (f"{text}.", f"{text}?")
    for written in (text, text.lower(), *ended):
        assert completeness(written) is Completeness.UNFINISHED


@pytest.mark.parametrize(
    "text", ["", "  ", "Twelve.", "Is the red triangle", "Is there a problem?", "Say hello", "今日は"]
)
def test_what_may_be_either(text: str) -> None:
    assert completeness(text) is Completeness.OPEN


def test_few_beginnings_read_as_finished() -> None:
    """In a sentence of general English, the words so far are a whole clause now and then."""
    beginnings = [" ".join(text.split()[:num]) for text in WHOLE for num in range(1, len(text.split()))]
    finished = [text for text in beginnings if completeness(text) is Completeness.FINISHED]
    assert len(beginnings) > 150
    assert len(finished) <= 0.25 * len(beginnings), finished


def test_a_full_stop_that_a_pause_has_put_there_ends_no_sentence() -> None:
    assert completeness("Who is? John?") is Completeness.FINISHED
    assert completeness("Is the triangle big or? small?") is Completeness.FINISHED
    assert completeness("Who is she? I would like to") is Completeness.UNFINISHED


@given(st.text(max_size=200))
def test_any_text_reads_somehow(text: str) -> None:
    assert completeness(text) in Completeness
    assert completeness(f" {text}\n") is completeness(text.strip())
