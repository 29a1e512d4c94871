"""How speech consumes text: the golden requests' visible text, step by step, for any run-ahead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.sched.speaking import SpeakingState

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "omni_a" / "cases.json").read_text("utf-8"))
SPOKEN = {case["name"]: case for case in GOLDEN["cases"] if "unit_ctc" in case}
BLANK, EOT = 90, 91


def speaking(
    *, lag: int = 3, text_input: bool = False, silent_ids: frozenset[int] = frozenset()
) -> SpeakingState:
    return SpeakingState(
        blank=BLANK, eot=EOT, lag=lag, carries_speech=lambda i: i not in silent_ids, text_input=text_input
    )


@pytest.mark.parametrize("case", SPOKEN.values(), ids=SPOKEN)
@pytest.mark.parametrize("num_ahead", [0, 1, 5, 1000])
def test_golden(case: dict[str, Any], num_ahead: int) -> None:
    """At each step, `num_ahead` more text tokens are there than were asked for."""
    state = SpeakingState(
        blank=GOLDEN["blank_id"],
        eot=GOLDEN["eot_id"],
        lag=GOLDEN["lag"],
        carries_speech=_carries_by_golden(case),
        text_input=case["mode"] == "text_to_speech",
    )
    text = case["llm_ids"]

    def serve() -> None:
        """Text comes one token at a time while it is waited for."""
        known = min(len(text), state.num_consumed + num_ahead)
        state.consume(text[:known], text_ended=False)
        while state.waits:
            known += 1
            assert known <= len(text), "more text is asked for than the golden run decoded"
            state.consume(text[:known], text_ended=False)

    serve()
    for label in case["unit_ctc"]:
        state.read_back(label)
        serve()
    assert state.visible == case["visible_text"]
    assert state.fusion_ids == case["fusion_ids"]
    assert state.unit_labels == case["unit_ctc"]
    assert state.num_consumed == len(text), "all text that was decoded was asked for"


def _carries_by_golden(case: dict[str, Any]) -> Any:
    """The ids of this case that became fusion entries."""
    carries = set(case["fusion_ids"])
    return carries.__contains__


def test_the_first_step_waits_for_the_lag() -> None:
    state = speaking(silent_ids=frozenset({1}))
    assert state.waits
    text = [5, 1, 6, 1]
    state.consume(text, text_ended=False)
    found = (state.waits, state.fusion_ids[:], state.num_consumed, state.visible[:])
    assert found == (True, [5, 6], 4, [])
    text += [7, 8]
    state.consume(text, text_ended=False)
    found = (state.waits, state.fusion_ids, state.num_consumed, state.visible)
    assert found == (False, [5, 6, 7], 5, [3]), "8 is left for later"


def test_a_new_label_asks_for_one_more_entry() -> None:
    state = speaking(silent_ids=frozenset({1}))
    text = [5, 6, 7, 1, 8, 9]
    state.consume(text, text_ended=False)
    for label, visible in [(BLANK, 3), (20, 4), (20, 4), (BLANK, 4), (20, 4), (21, 5), (BLANK, 5)]:
        state.read_back(label)
        state.consume(text, text_ended=False)
        assert state.visible[-1] == visible, "a label repeated, also across a blank, is not new"
    state.read_back(20)
    assert state.waits, "an older label is new again"
    state.consume(text, text_ended=False)
    assert state.waits, "the text is used up"
    assert not state.silent


def test_end_of_turn_is_said_and_ends_the_text_for_good() -> None:
    state = speaking()
    text = [5, EOT, 6, 7]
    state.consume(text, text_ended=False)
    assert state.ended
    assert state.silent
    assert (state.fusion_ids, state.num_consumed, state.visible) == ([5, EOT], 2, [2]), (
        "before the lag is full"
    )
    for label in (20, 21, 22):
        state.read_back(label)
        state.consume(text, text_ended=False)
    assert (state.fusion_ids, state.num_consumed, state.visible) == ([5, EOT], 2, [2, 2, 2, 2])


def test_text_that_ends_by_its_length_does_not_hold_speech_up() -> None:
    state = speaking()
    state.consume([5], text_ended=False)
    assert state.waits
    state.consume([5], text_ended=True)
    assert state.visible == [1]
    state.read_back(20)
    state.consume([5], text_ended=True)
    assert state.visible == [1, 1]
    assert not state.ended


def test_nothing_to_say_at_all() -> None:
    state = speaking(silent_ids=frozenset({1, 2}))
    state.consume([1, 2, 1], text_ended=True)
    assert (state.fusion_ids, state.visible) == ([], [0])


@pytest.mark.parametrize(("text_input", "entries"), [(True, 3), (False, 4)])
def test_a_blank_as_text_closes_speech_from_text(text_input: bool, entries: int) -> None:
    """The released code's guard, only in text-to-speech mode."""
    state = speaking(text_input=text_input)
    text = [5, 6, BLANK, 7]
    state.consume(text, text_ended=False)
    assert state.silent is text_input
    state.read_back(20)
    state.consume(text, text_ended=False)
    assert state.visible == [3, entries]


def test_a_unit_is_read_after_it_was_spoken() -> None:
    state = speaking()
    with pytest.raises(AssertionError, match="a unit is read back after it was spoken"):
        state.read_back(20)


@settings(max_examples=100, derandomize=True)
@given(
    text=st.lists(st.sampled_from([1, 2, 5, 6, 7, BLANK, EOT]), min_size=1, max_size=20),
    labels=st.lists(st.sampled_from([20, 21, BLANK]), max_size=20),
    lag=st.integers(1, 4),
    text_input=st.booleans(),
    portions=st.lists(st.integers(1, 5), min_size=1, max_size=20),
)
def test_portions_make_no_difference(
    text: list[int], labels: list[int], lag: int, text_input: bool, portions: list[int]
) -> None:
    """With text all at once, or in any portions as it is waited for, every step sees the same."""

    def run(sizes: list[int]) -> tuple[list[int], list[int], int]:
        state = speaking(lag=lag, text_input=text_input, silent_ids=frozenset({1, 2}))
        known, remaining = 0, list(sizes)
        for label in [None, *labels]:
            if label is not None:
                state.read_back(label)
            while state.waits:
                state.consume(text[:known], text_ended=known == len(text))
                if state.waits:
                    known = min(len(text), known + (remaining.pop() if remaining else 1))
        return state.fusion_ids, state.visible, state.num_consumed

    assert run(portions) == run([len(text)])
