"""A request's two tracks: where everything stands, and what each position waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_model import (
    END_OF_TEXT,
    EOT,
    FIRST_UNIT,
    MODEL,
    OPENING,
    SPEAKING_IDS,
    carries_speech,
    make_prompt,
    picture,
)
from fake_world import World

from antiphon.sched.request import NO_ID, SOFT_KEY, RequestState

CLOSING = 6


def text_reply(**params: Any) -> RequestState:
    return World(9).make(make_prompt([20], speaks=False), **params)


def spoken_reply(*, units: tuple[int, ...] = (), **params: Any) -> RequestState:
    prompt = make_prompt([20], units, speaks=True)
    return World(9).make(prompt, max_units=params.pop("max_units", 10), **params)


# --- layout ---------------------------------------------------------------------------------------


def test_text_alone_has_one_track() -> None:
    request = text_reply()
    assert list(request.text.ids) == list(request.text.keys) == [*OPENING, 20, CLOSING]
    assert request.speech is None
    assert request.speaking is None
    assert not request.is_soft
    assert request.num_speech_known == 0
    assert request.top_ready() == 0
    assert request.text_ready() == request.num_text_prompt == 6


def test_speech_is_heard_on_one_track_and_thought_on_the_other() -> None:
    request = World(9).make(make_prompt([20], [7, 8], speaks=False))
    ids = [*OPENING, 20, FIRST_UNIT + 7, FIRST_UNIT + 8, CLOSING]
    assert request.speech is not None
    assert list(request.speech.ids) == list(request.speech.keys) == ids
    assert list(request.text.keys) == [i + SOFT_KEY for i in ids], "the plain embedding has other keys"
    assert list(request.text.ids) == [NO_ID] * 8, "the LLM reads soft embeddings"
    assert request.speaking is None
    assert sorted(request.unit_positions) == [5, 6]


def test_speech_from_text_starts_from_the_speaking_prompt() -> None:
    request = spoken_reply()
    assert request.speech is not None
    assert tuple(request.speech.keys) == SPEAKING_IDS
    assert list(request.text.keys) == [*OPENING, 20, CLOSING]
    assert request.num_speech_prompt == 6
    assert not request.unit_positions


def test_pictures_take_their_positions_on_the_text_track_alone() -> None:
    """Two pictures, of 4 positions and of 1, each followed by id 5."""
    pictures = [picture("a", 2), picture("b", 1)]
    request = World(30).make(make_prompt([20], [7, 8], pictures, speaks=False))
    assert request.num_speech_prompt == 10
    assert request.num_text_prompt == 15
    assert [(span.index, span.start, span.end) for span in request.image_spans] == [(0, 4, 8), (1, 9, 10)]
    text, positions = list(request.text.keys), [0, 1, 2, 3, 8, 10, 11, 12, 13, 14]
    assert request.speech is not None
    assert [text[p] - SOFT_KEY for p in positions] == list(request.speech.keys)
    assert text[5] == text[4] + 1, "one key for each feature of a picture"
    written = World(30).make(make_prompt([20], [], pictures, speaks=False))
    expected = [*OPENING[:4], *[NO_ID] * 4, 5, NO_ID, 5, 20, CLOSING]
    assert list(written.text.ids)[4:11] == expected[4:11], "a picture has keys, and no ids"
    assert [request.text_position(p) for p in range(10)] == [0, 1, 2, 3, 8, 10, 11, 12, 13, 14]
    before = [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert [request.speech_before(p) for p in range(17)] == before


def test_keys_tell_pictures_apart() -> None:
    def keys(name: str) -> list[int]:
        return list(World(30).make(make_prompt([], [], [picture(name)], speaks=False)).text.keys)

    assert keys("a") == keys("a")
    assert not set(keys("a")[4:8]) & set(keys("b")[4:8])


@pytest.mark.parametrize("units", [(), (7,)], ids=["text", "speech"])
def test_the_last_position_of_a_speaking_prompt_is_its_own(units: tuple[int, ...]) -> None:
    """It attends to text, which is not part of the key."""
    request = spoken_reply(units=units)
    assert request.speech is not None
    assert request.speech.num_shareable == request.num_speech_prompt - 1
    assert request.text.num_shareable is None


# --- what waits for what --------------------------------------------------------------------------


def test_text_of_a_spoken_prompt_waits_for_the_bottom_layers() -> None:
    """Pictures right after what was heard need not wait."""
    request = World(30).make(make_prompt([20], [7], [picture("a", 2)], speaks=False))
    assert request.speech is not None
    ready = []
    for heard in range(request.num_speech_prompt + 1):
        request.speech.num_computed = heard
        ready.append(request.text_ready())
    assert ready == [0, 1, 2, 3, 8, 9, 10, 11, 12]


def test_top_layers_wait_for_text_at_the_prompts_end() -> None:
    request = spoken_reply()
    assert request.speech is not None
    request.speech.num_computed = 6
    assert request.top_ready() == 5
    for token in (10, 11, 13):
        assert request.waits_for_text
        request.add_text(token)
    assert not request.waits_for_text
    assert request.top_ready() == 6
    assert [request.visible_at(p) for p in range(6)] == [0, 0, 0, 0, 0, 3]
    request.speech.num_computed = 3
    assert request.top_ready() == 3, "no further than the bottom layers"


def test_a_unit_step_waits_when_its_label_is_new() -> None:
    request = spoken_reply()
    assert request.speech is not None
    for token in (10, 11, 13, 14):
        request.add_text(token)
    assert request.num_text_ahead == 1
    request.speech.num_computed = 7
    request.add_unit(FIRST_UNIT)
    assert request.unlabelled(0, 7) == [6], "the prompt holds no units"
    assert request.top_ready() == 6, "not read back yet"
    request.add_label(6, 0)
    assert request.unlabelled(0, 7) == []
    assert (request.top_ready(), request.visible_at(6), request.num_text_ahead) == (7, 4, 0)
    request.speech.num_computed = 8
    request.add_unit(FIRST_UNIT)
    request.add_label(7, 1)
    assert request.waits_for_text
    assert request.top_ready() == 7


def test_labels_of_the_prompt_are_wanted_once() -> None:
    request = spoken_reply(units=(7, 8, 9))
    assert request.unlabelled(0, 9) == [5, 6, 7]
    assert request.unlabelled(0, 6) == [5]
    request.add_label(5, 0)
    assert request.unlabelled(0, 9) == [6, 7]
    assert request.prompt_labels == [None] * 5 + [0] + [None] * 3


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [EOT, END_OF_TEXT])
def test_a_text_reply_ends_at_any_stop_id(stop: int) -> None:
    request = text_reply()
    request.add_text(10)
    assert request.end_of_picks() is None
    request.add_text(stop)
    assert (request.end_of_picks(), request.text_ids) == ("stop", [10, stop])


def test_a_text_reply_ends_at_its_limit() -> None:
    request = text_reply(max_tokens=2)
    request.add_text(10)
    request.add_text(10)
    assert request.end_of_picks() == "length"
    request = text_reply(max_tokens=1)
    request.add_text(EOT)
    assert request.end_of_picks() == "stop", "a stop id at the limit is a stop"


def test_stop_ids_can_be_ignored() -> None:
    request = text_reply(max_tokens=2, ignore_eos=True)
    request.add_text(EOT)
    assert request.end_of_picks() is None
    request.add_text(EOT)
    assert request.end_of_picks() == "length"


def test_only_the_end_of_turn_ends_text_that_is_spoken() -> None:
    request = spoken_reply()
    ended = []
    for token in (END_OF_TEXT, EOT):
        request.add_text(token)
        ended.append(request.text_ended)
    assert ended == [False, True]
    assert request.end_of_picks() is None
    assert not request.needs_text
    assert request.speaking is not None
    assert request.speaking.visible == [1], "42 carries nothing here, end of turn does"


def test_text_that_is_spoken_ends_at_its_limit() -> None:
    request = spoken_reply(max_tokens=2)
    request.add_text(10)
    request.add_text(11)
    assert request.text_ended
    assert not request.waits_for_text
    assert request.speaking is not None
    assert request.speaking.visible == [2]


@pytest.mark.parametrize("stop", [EOT, END_OF_TEXT])
def test_speech_ends_at_any_stop_id(stop: int) -> None:
    request = spoken_reply()
    request.add_unit(FIRST_UNIT)
    known = request.num_speech_known
    request.add_unit(stop)
    assert (request.end_of_picks(), request.unit_ids) == ("stop", [FIRST_UNIT, stop])
    assert request.num_speech_known == known, "what is picked last is not read back"


def test_speech_ends_at_its_limit() -> None:
    request = spoken_reply(max_units=2, ignore_eos=True)
    request.add_unit(EOT)
    assert request.end_of_picks() is None
    request.add_unit(FIRST_UNIT)
    assert (request.end_of_picks(), request.num_speech_known) == ("length", 7)


def test_text_that_speech_has_not_asked_for_is_not_shown() -> None:
    request = spoken_reply()
    for token in (10, 11, 13, 14, 16):
        request.add_text(token)
    assert request.shown_text_ids == [10, 11, 13]
    assert request.num_text_ahead == 2
    assert request.needs_text
    assert not request.waits_for_text


def test_a_finished_request_needs_nothing() -> None:
    world = World(30)
    request = world.add(text_reply())
    assert request.waits_for_text
    world.abort(request)
    assert request.finished
    assert not request.needs_text
    assert not request.waits_for_text


def test_the_lag_is_the_configs() -> None:
    world = World(9)
    request = RequestState(
        "r",
        make_prompt([20], speaks=True),
        spoken_reply().params,
        speaks=True,
        config=replace(MODEL, fusion_lag=1),
        cache=world.cache,
        carries_speech=carries_speech,
    )
    request.add_text(10)
    assert not request.waits_for_text
