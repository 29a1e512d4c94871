"""Prompts that grow and change while their users speak: what is kept, who makes way, and in which blocks."""

from __future__ import annotations

import pytest
from fake_model import OPENING, STEADY, ids, make_prompt, picture
from fake_world import Step
from growing_world import GrowingWorld

from antiphon.sched.request import RequestState

FIRST = len(OPENING)
"""Where the units stand."""


def spans(steps: list[Step]) -> dict[str, list[tuple[int, int]]]:
    """What each stack computed, of all requests."""
    return {
        stack: [(start, end) for step in steps for _, start, end, _ in getattr(step, stack)]
        for stack in ("bottom", "text", "top")
    }


def tables(request: RequestState) -> tuple[list[int], list[int]]:
    assert request.speech is not None
    return request.speech.block_table, request.text.block_table


# --- one request ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_units", [None, 9], ids=["text", "speech"])
def test_nothing_is_picked_while_it_grows(max_units: int | None) -> None:
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2], max_units=max_units)
    steps = world.settle()
    assert not any(
        samples for step in steps for stack in (step.bottom, step.text, step.top) for *_, samples in stack
    )
    assert (request.text_ids, request.unit_ids) == ([], [])
    assert not world.step().did_something
    world.commit(request)
    world.drain()
    world.check_answer(request)


def test_more_units_cost_those_units() -> None:
    """The top layers stay one position behind: they read a prompt's last position together with text."""
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2], max_units=2)
    assert spans(world.settle()) == {"bottom": [(0, 6)], "text": [(0, 6)], "top": [(0, 5)]}
    assert world.update_speech(request, [1, 2, 3, 4])
    assert spans(world.settle()) == {"bottom": [(6, 8)], "text": [(6, 8)], "top": [(5, 7)]}
    assert world.update_speech(request, [1, 2, 3, 4]), "there is nothing new"
    assert not world.scheduler.has_work
    world.commit(request)
    first = world.step()
    assert spans([first]) == {"bottom": [(8, 9)], "text": [(8, 9)], "top": [(7, 8)]}
    world.drain()
    world.check_answer(request)


def test_a_change_in_a_block_of_its_own_costs_what_follows_it() -> None:
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3, 4, 5, 6])
    world.settle()
    before = [list(table) for table in tables(request)]
    assert world.update_speech(request, [1, 2, 3, 4, 5, 7, 8])
    assert spans(world.settle()) == {"bottom": [(9, 11)], "text": [(9, 11)], "top": []}
    assert [list(table) for table in tables(request)] == before == [[0, 1, 2], [3, 4, 5]]
    world.commit(request)
    world.drain()
    world.check_answer(request)


def test_a_change_in_a_published_block_gives_it_back() -> None:
    """The second blocks, 1 and 4, are full and can be found: they keep their contents for others."""
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3, 4, 5])
    world.settle()
    assert tables(request) == ([0, 1, 2], [3, 4, 5])
    assert world.update_speech(request, [1, 2, 9, 9])
    assert tables(request) == ([0], [3])
    assert spans(world.settle()) == {"bottom": [(4, 8)], "text": [(4, 8)], "top": []}
    # the third blocks were not full: there was nothing in them to keep, so they are reused first
    assert tables(request) == ([0, 2], [3, 5])
    other = world.open([1, 2, 3, 4, 5])
    assert spans(world.settle()) == {"bottom": [(8, 9)], "text": [(8, 9)], "top": []}
    assert tables(other) == ([0, 1, 6], [3, 4, 7])
    for one in (request, other):
        world.commit(one)
    world.drain()
    for one in (request, other):
        world.check_answer(one)


def test_a_change_at_a_blocks_start_keeps_what_is_before() -> None:
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3, 4, 5])
    world.settle()
    assert world.update_speech(request, [1, 2, 3, 4, 6])
    assert tables(request) == ([0, 1], [3, 4])
    assert spans(world.settle()) == {"bottom": [(8, 9)], "text": [(8, 9)], "top": []}


def test_a_block_that_others_read_is_not_written_to() -> None:
    """Even if it can no longer be found: the prefix cache was reset while both held it."""
    world = GrowingWorld(30, mind=STEADY)
    first = world.open([1, 2, 3, 4, 5])
    world.settle()
    second = world.open([1, 2, 3, 4, 5])
    world.settle()
    assert tables(second) == ([0, 1, 6], [3, 4, 7])
    world.pool.reset_prefix_cache()
    assert world.update_speech(first, [1, 2, 9])
    assert tables(first) == ([0], [3])
    world.settle()
    for request in (first, second):
        world.commit(request)
    world.drain()
    for request in (first, second):
        world.check_answer(request)


def test_without_prefix_cache_every_block_is_its_own() -> None:
    world = GrowingWorld(20, enable_prefix_caching=False, mind=STEADY)
    request = world.open([1, 2, 3, 4, 5])
    world.settle()
    assert world.update_speech(request, [1, 9])
    assert tables(request) == ([0, 1], [3, 4])
    assert spans(world.settle()) == {"bottom": [(5, 6)], "text": [(5, 6)], "top": []}


def test_the_bottom_layers_go_back_with_the_llm() -> None:
    """A text block of 4 is full and shared, the speech block of 8 is not: what the LLM reads again has to be
    heard again, since soft embeddings are not kept once they are read."""
    world = GrowingWorld(20, num_text_layers=4, num_speech_layers=2, mind=STEADY)
    request = world.open([1, 2, 3])
    world.settle()
    assert tables(request) == ([0], [1, 2])
    assert world.update_speech(request, [1, 2, 3, 4])
    world.settle()
    assert world.pool.block(2).digest is not None
    world.pool._forget(world.pool.block(0))  # the speech block would be full and shared as well
    assert world.update_speech(request, [1, 2, 3, 5])
    assert request.speech is not None
    assert (request.speech.num_computed, request.text.num_computed) == (4, 4)
    assert tables(request) == ([0], [1])
    assert spans(world.settle()) == {"bottom": [(4, 8)], "text": [(4, 8)], "top": []}
    world.commit(request)
    world.drain()
    world.check_answer(request)


def test_what_was_heard_and_not_read_is_not_heard_again() -> None:
    """The LLM is behind: it has read 3 positions of the 6 that were heard when a seventh comes."""
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2])
    world.scheduler.admit()
    world.heard[request.request_id] = {}
    plan = world.scheduler.schedule_bottom()
    world.scheduler.complete_bottom(plan, [world.hear(chunk) for chunk in plan.chunks])
    world.scheduler.max_num_batched_tokens = 3
    world.step()
    assert request.text.num_computed == 3
    world.scheduler.max_num_batched_tokens = 64
    assert world.update_speech(request, [1, 2, 3])
    assert spans(world.settle()) == {"bottom": [(6, 7)], "text": [(3, 7)], "top": []}


def test_labels_before_a_change_are_not_asked_for_again() -> None:
    world = GrowingWorld(20)
    request = world.open([1, 2, 3, 4, 5])
    world.settle()
    known = request.prompt_labels[FIRST : FIRST + 2]
    assert None not in known
    assert world.update_speech(request, [1, 2, 9])
    assert request.prompt_labels[FIRST:] == [*known, None]
    assert request.unlabelled(0, 7) == [FIRST + 2]


def test_fewer_units_leave_nothing_to_compute() -> None:
    world = GrowingWorld(20, mind=STEADY)
    request = world.open([1, 2, 3], max_units=3)
    world.settle()
    for units in ([1], []):
        assert world.update_speech(request, units)
        assert not world.scheduler.has_work
        assert not world.step().did_something
    assert world.update_speech(request, [1, 2])
    world.settle()
    world.commit(request)
    world.drain()
    world.check_answer(request)


@pytest.mark.parametrize("max_units", [None, 3], ids=["text", "speech"])
def test_what_was_computed_while_it_grew_is_found_by_others(max_units: int | None) -> None:
    """Digests are those of a prompt that came at once. A spoken reply does not share its last position."""
    world = GrowingWorld(40, mind=STEADY)
    request = world.open([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], max_units=max_units)
    world.settle()
    assert world.update_speech(request, [1, 2, 3, 4, 9])
    world.settle()
    assert world.update_speech(request, [1, 2, 3, 4, 9, 9, 9, 9, 9])
    world.commit(request)
    world.drain()
    prompt = make_prompt([], [1, 2, 3, 4, 9, 9, 9, 9, 9], speaks=False)
    other = world.add(world.make(prompt, max_units=max_units))
    step = world.step()
    assert other.num_cached_tokens == 12
    assert step.text == [(other.request_id, 12, 14, True)]
    assert request.speech is not None
    assert other.speech is not None
    assert request.speech.num_shareable == other.speech.num_shareable == (None if max_units is None else 13)
    world.drain()
    for one in (request, other):
        world.check_answer(one)


def test_pictures_stay_where_they_are() -> None:
    world = GrowingWorld(40)
    request = world.open([1, 2], pictures=[picture("a"), picture("b", 1)], max_units=6)
    world.settle()
    assert world.update_speech(request, [1, 3, 4])
    # each picture is followed by an id; the LLM has 3 positions more than the first picture has ids
    assert spans(world.settle()) == {"bottom": [(7, 9)], "text": [(12, 14)], "top": [(7, 8)]}
    world.commit(request)
    world.drain()
    world.check_answer(request)


def test_too_many_units_are_refused_before_anything_changes() -> None:
    world = GrowingWorld(6, mind=STEADY)
    request = world.open([1, 2])
    world.settle()
    # both tracks: opening, 6 units, closing, one more: 12 positions, 3 blocks
    assert not world.update_speech(request, [1] * 7)
    assert world.update_speech(request, [1] * 6)
    world.settle()
    world.commit(request)
    world.drain()
    world.check_answer(request)


# --- others ---------------------------------------------------------------------------------------


def test_a_silent_user_holds_no_row() -> None:
    world = GrowingWorld(40, max_num_seqs=1, mind=STEADY)
    request = world.open([1, 2])
    world.settle()
    other = world.add(world.make(make_prompt(ids(6), speaks=False), max_tokens=3))
    world.step()
    assert (world.scheduler.running, world.scheduler.resting) == ([other], [request])
    world.settle()
    assert world.scheduler.resting == [request], "it has nothing to ask for, and would only make way again"
    assert world.update_speech(request, [1, 2, 3])
    world.settle()
    assert (world.scheduler.running, request.num_preemptions) == ([request], 1)
    world.commit(request)
    world.drain()
    for one in (request, other):
        world.check_answer(one)


def test_two_users_who_speak_in_turn_share_a_row() -> None:
    """A silent one makes way for one that speaks, and does not come straight back: it rests."""
    world = GrowingWorld(40, max_num_seqs=1, mind=STEADY)
    first = world.open([1])
    world.settle()
    second = world.open([2])
    world.settle()
    assert (world.scheduler.running, world.scheduler.resting) == ([second], [first])
    assert world.update_speech(first, [1, 1])
    world.settle()
    assert (world.scheduler.running, world.scheduler.resting) == ([first], [second])
    for request in (second, first):
        world.commit(request)
    world.drain()
    for request in (first, second):
        world.check_answer(request)


def test_a_speaking_user_does_not_make_way_for_another() -> None:
    world = GrowingWorld(40, max_num_seqs=1, max_num_batched_tokens=2, mind=STEADY)
    first = world.open([1, 2, 3, 4, 5, 6])
    world.step()
    second = world.open([2])
    world.step()
    assert world.scheduler.running == [first]
    assert list(world.scheduler.waiting_growing) == [second]


def test_waiting_users_come_before_speaking_ones() -> None:
    world = GrowingWorld(40, max_num_seqs=2, max_num_batched_tokens=2, mind=STEADY)
    speaking = [world.open([k] * 6) for k in (1, 2)]
    world.step()
    waiting = [world.add(world.make(make_prompt(ids(6, k), speaks=False), max_tokens=3)) for k in (20, 21)]
    world.step()
    assert world.scheduler.running == waiting
    assert set(world.scheduler.waiting_growing) == set(speaking)
    world.settle()
    assert set(world.scheduler.running) == set(speaking)


def test_a_committed_request_waits_in_line() -> None:
    world = GrowingWorld(40, max_num_seqs=1, mind=STEADY)
    request = world.open([1])
    other, late = (world.make(make_prompt(ids(6), speaks=False), max_tokens=3) for _ in range(2))
    world.add(other)
    world.step()
    world.commit(request)
    world.add(late)
    assert list(world.scheduler.waiting) == [request, late]
    order = [name for step in world.drain() for name in step.finished]
    assert order == [r.request_id for r in (other, request, late)]


def test_blocks_are_taken_from_silent_users_then_from_speaking_ones() -> None:
    world = GrowingWorld(50, max_num_batched_tokens=16, enable_prefix_caching=False, mind=STEADY)
    silent = world.open([1])
    world.settle()
    written, late = (world.add(world.make(make_prompt(ids(6), speaks=False))) for _ in range(2))
    world.step()
    speaking = world.open([1] * 30)
    world.step()
    assert world.scheduler.running == [silent, written, late, speaking]
    order = []
    while world.scheduler.running[1:]:
        victim = world.scheduler._next_victim()
        assert victim is not None
        order.append(victim)
        world.scheduler.preempt(victim)
    assert order == [silent, speaking, late]
    assert list(world.scheduler.waiting) == [late]
    assert list(world.scheduler.waiting_growing) == [speaking]
    assert world.scheduler.resting == [silent]


def test_a_speaking_user_takes_no_block_from_a_waiting_one() -> None:
    """It makes way for itself, and goes on when the other is done."""
    world = GrowingWorld(9, enable_prefix_caching=False, mind=STEADY)
    written = world.add(world.make(make_prompt(ids(5), speaks=False), max_tokens=14))
    world.step()
    request = world.open([])
    world.step()
    assert world.scheduler.running == [written, request]
    assert world.update_speech(request, [1] * 9)
    world.settle()
    assert (written.num_preemptions, request.num_preemptions) == (0, 1)
    assert written.finished
    assert world.scheduler.running == [request]
    world.commit(request)
    world.drain()
    for one in (written, request):
        world.check_answer(one)


def test_a_request_is_aborted_wherever_it_is() -> None:
    world = GrowingWorld(40, max_num_seqs=1, max_num_batched_tokens=4, mind=STEADY)
    resting, running, waiting = (world.open([k] * 9) for k in (1, 2, 3))
    while not world.scheduler.resting:
        world.step()
    assert (world.scheduler.resting, world.scheduler.running) == ([resting], [running])
    assert list(world.scheduler.waiting_growing) == [waiting]
    for request in (waiting, resting, running):
        world.abort(request)
    assert world.unfinished == []
    assert world.pool.num_free == 40
