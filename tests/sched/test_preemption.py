"""Too few blocks: which requests wait or make way, and that the results show nothing of it."""

from __future__ import annotations

from typing import Any

from fake_model import FIRST_UNIT, STEADY, Mind, ids, make_prompt
from fake_world import World


def test_admission_leaves_room_for_running_requests() -> None:
    """A block for each track of each running request stays free, or the newcomer would soon be preempted."""
    for num_blocks, admitted in [(5, ["r0"]), (6, ["r0", "r1"]), (8, ["r0", "r1"]), (10, ["r0", "r1", "r2"])]:
        world = World(num_blocks, mind=STEADY)
        for first in (20, 21, 22):
            world.add(world.make(make_prompt(ids(8, first), speaks=False)))
        assert world.step().admitted == admitted


def test_the_oldest_goes_first() -> None:
    """A small request does not overtake a large one."""
    world = World(8, mind=STEADY)
    world.add(world.make(make_prompt(ids(12, 20), speaks=False), max_tokens=4))
    world.add(world.make(make_prompt(ids(24, 21), speaks=False), max_tokens=2))
    world.add(world.make(make_prompt(ids(5, 22), speaks=False), max_tokens=2))
    admitted = [name for step in world.drain() for name in step.admitted]
    assert admitted == ["r0", "r1", "r2"]


def test_requests_for_speech_can_be_passed_over() -> None:
    """They keep their places for when they are not."""
    world = World(20, mind=STEADY)
    for first, speaks in ((20, True), (21, False), (22, True), (23, False)):
        world.add(world.make(make_prompt(ids(8, first), speaks=speaks), max_units=9 if speaks else None))
    admitted = world.scheduler.admit(may_speak=False)
    assert [request.request_id for request in admitted] == ["r1", "r3"]
    assert [request.request_id for request in world.scheduler.waiting] == ["r0", "r2"]
    assert [request.request_id for request in world.scheduler.admit()] == ["r0", "r2"]


def test_the_last_admitted_is_preempted_first() -> None:
    """It goes to the head of the queue, keeps what it knows, and computes it again."""
    world = World(12, enable_prefix_caching=False, mind=STEADY)
    requests = [
        world.add(world.make(make_prompt(ids(8, first), speaks=False), max_tokens=17))
        for first in (20, 21, 22, 23)
    ]
    names = {id(request): request.request_id for request in requests}

    def queue() -> tuple[list[str], list[str]]:
        return (
            [names[id(r)] for r in world.scheduler.running],
            [names[id(r)] for r in world.scheduler.waiting],
        )

    world.step()
    assert queue() == (["r0", "r1", "r2"], ["r3"])
    while not requests[2].num_preemptions:
        world.step()
    # three with 16 positions each fill the pool; the first wants a 17th
    assert queue() == (["r0", "r1"], ["r2", "r3"])
    assert requests[2].num_preemptions == 1
    assert len(requests[2].text_ids) == 9
    assert requests[2].row is None
    assert requests[2].text.block_table == []
    steps = world.drain()
    assert [r.num_cached_tokens for r in requests] == [0, 0, 0, 0]
    again = next(step for step in steps if "r2" in step.admitted)
    assert ("r2", 0, 17, True) in again.text, "prompt and reply in one piece, as a prefill"
    assert [r.num_preemptions for r in requests] == [0, 0, 1, 0]
    for request in requests:
        world.check_answer(request)


def test_several_are_preempted_in_order() -> None:
    """One that needs many blocks takes those of two, which queue in the order in which they came."""
    world = World(10, mind=STEADY)
    requests = [world.add(world.make(make_prompt(ids(n), speaks=False))) for n in (5, 6, 7)]
    assert world.scheduler.admit() == requests
    assert requests[0].text.block_table == [0, 1]
    assert world.scheduler._make_room(requests[0], requests[0].text, 10 * 4)
    assert world.scheduler.running == requests[:1]
    assert list(world.scheduler.waiting) == requests[1:]
    # the two gave back blocks without cached contents, which are reused before those never used
    assert requests[0].text.block_table == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    world.scheduler.check_integrity()


def test_the_last_admitted_makes_way_for_itself() -> None:
    """It takes nothing from those before it: it steps back, and is admitted again later."""
    world = World(7, enable_prefix_caching=False, mind=STEADY)
    first = world.add(world.make(make_prompt(ids(5, 20), speaks=False), max_tokens=12))
    second = world.add(world.make(make_prompt(ids(8, 21), speaks=False), max_tokens=12))
    world.drain()
    assert (first.num_preemptions, second.num_preemptions) == (0, 1)
    for request in (first, second):
        world.check_answer(request)


def test_units_are_computed_again_within_the_spare_windows() -> None:
    """Several units of a request in one pass need a window each: the spare ones first, then one at a time."""
    mind = Mind(text=lambda _: 10, unit=lambda _: FIRST_UNIT, label=lambda state: state % 3)
    world = World(60, max_fused_tokens=4, mind=mind)
    request = world.add(world.make(make_prompt(ids(6), speaks=True), max_units=20))
    while len(request.unit_ids) < 11:
        world.step()
    world.scheduler.preempt(request)
    steps = [world.step() for _ in range(4)]
    # one block of the prompt was shared and is found again; positions 5 to 16 attend to text
    assert [step.bottom for step in steps] == [[("r0", 4, 17, False)], [], [], [("r0", 17, 18, False)]]
    assert [step.top for step in steps] == [
        [("r0", 4, 9, False)],
        [("r0", 9, 13, False)],
        [("r0", 13, 17, True)],
        [("r0", 17, 18, True)],
    ]
    world.drain()
    world.check_answer(request)


def test_spare_windows_are_shared_out() -> None:
    """Two requests recompute their units in one pass: the second gets what is left, and at least one."""
    world = World(60, max_fused_tokens=4, enable_prefix_caching=False, mind=STEADY)
    requests = [world.add(world.make(make_prompt(ids(6), speaks=True), max_units=20)) for _ in range(2)]
    while len(requests[1].unit_ids) < 6:
        world.step()
    for request in requests[::-1]:
        world.scheduler.preempt(request)
    spans = [[(start, end) for _, start, end, _ in world.step().top] for _ in range(4)]
    # positions 0 to 4 of the prompt attend to no text, 5 to 11 do
    assert spans == [[(0, 9), (0, 6)], [(9, 12), (6, 7)], [(12, 13), (7, 11)], [(13, 14), (11, 12)]]
    world.drain()
    for request in requests:
        world.check_answer(request)


def test_what_was_heard_is_not_heard_again() -> None:
    """Labels of units are known after a preemption, so text is not consumed twice."""
    world = World(60)
    prompt = make_prompt([], [1, 2, 3], speaks=True)
    request = world.add(world.make(prompt, max_units=25, ignore_eos=True))
    for num_units in range(0, 25, 3):
        while len(request.unit_ids) < num_units:
            world.step()
        if request.row is not None:
            world.scheduler.preempt(request)
    world.drain()
    assert request.num_preemptions > 5
    world.check_answer(request)


def alone_in_the_cache(num_blocks: int, **params: Any) -> tuple[World, list[int]]:
    """A spoken reply that has run 7 ids ahead beside a text reply that has ended since."""
    world = World(num_blocks, block_size=16, text_lookahead=7, enable_prefix_caching=False, mind=STEADY)
    request = world.add(world.make(make_prompt([], [1] * 5, speaks=True), **params))
    world.add(world.make(make_prompt(ids(5), speaks=False), max_tokens=12))
    while len(world.unfinished) == 2:
        world.step()
    assert request.num_text_ahead == 7
    assert len(request.text.block_table) == 2
    tables = []
    while not request.finished:
        world.step()
        tables.append(len(request.text.block_table))
    world.check_answer(request)
    return world, tables


def test_run_ahead_is_given_up_before_anything_ends() -> None:
    """Alone with a full cache: text that speech has not asked for goes, and speech gets its block."""
    world, tables = alone_in_the_cache(5, max_units=45)
    # 10 + 3 text positions have been asked for; 49 speech positions want a 4th block
    assert tables == sorted(tables, reverse=True)
    assert set(tables[:-1]) == {2, 1}
    assert world.requests["r0"].finish_reason == "length"
    assert len(world.requests["r0"].unit_ids) == 45, "its own limit"


def test_a_reply_ends_when_it_fills_the_whole_cache() -> None:
    world, tables = alone_in_the_cache(5, max_units=500)
    assert tables[-2] == 1
    assert world.requests["r0"].finish_reason == "length"
    # 4 blocks of 16 for speech: 10 of the prompt, 54 units read back, and the one that could not be
    assert len(world.requests["r0"].unit_ids) == 55
    assert world.pool.num_free == 5


def test_a_text_reply_ends_when_the_cache_is_full() -> None:
    world = World(3, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(8), speaks=False)))
    world.drain()
    assert request.finish_reason == "length"
    assert len(request.text_ids) == 5, "12 positions are computed: 8 of the prompt and 4 ids"
    world.check_answer(request)


def test_too_long_with_its_run_ahead() -> None:
    """Preempted when both tracks were about to need a block, and the other request held only one: alone, all
    that it knows is one block too long. It starts without its text, which it does not wait for."""
    world = World(3, block_size=64, text_lookahead=7, max_num_batched_tokens=200, mind=STEADY)
    written = world.add(world.make(make_prompt(ids(5), speaks=False), max_tokens=25))
    world.step()
    prompt = make_prompt([], [1] * 50, speaks=True)
    # the watermark would keep it out; here it was admitted while there was more room
    spoken = world.add(world.make(prompt, max_units=30))
    running = world.scheduler.running
    world.scheduler.running = []
    world.scheduler.admit()
    world.scheduler.running = [*running, *world.scheduler.running]
    world.heard["r1"] = {}
    while not spoken.num_preemptions:
        world.step()
    assert (len(spoken.text), spoken.num_speech_known) == (65, 65)
    assert not written.finished
    world.drain()
    assert written.num_preemptions == 0
    assert spoken.finish_reason == "length"
    assert len(spoken.unit_ids) == 30
    for request in (written, spoken):
        world.check_answer(request)


def test_what_can_never_fit_is_known_at_once() -> None:
    world = World(4)
    for num_positions, fits in [(15, True), (16, False), (40, False)]:
        prompt = make_prompt(ids(num_positions), speaks=False)
        assert world.scheduler.fits(world.make(prompt)) is fits
    # both tracks, one position more each
    assert world.scheduler.fits(world.make(make_prompt([], [1, 2], speaks=False)))
    assert not world.scheduler.fits(world.make(make_prompt([], [1, 2, 3], speaks=False)))
    assert world.scheduler.fits(world.make(make_prompt(ids(7), speaks=True), max_units=1))
    assert not world.scheduler.fits(world.make(make_prompt(ids(8), speaks=True), max_units=1))


def test_cached_tokens_are_those_of_the_first_admission() -> None:
    """Blocks of its own that a request finds after a preemption were computed for it: nothing was saved."""
    world = World(30, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(13), speaks=False)))
    world.step()
    world.scheduler.preempt(request)
    assert world.step().text == [("r0", 12, 14, True)]
    assert (request.num_cached_tokens, request.num_preemptions) == (0, 1)
