"""What runs when. `World.step` checks blocks, plans and budgets after every pass (helpers/fake_world.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_model import BLANK, EOT, FIRST_UNIT, STEADY, Mind, ids, make_prompt, picture
from fake_world import World


def test_no_torch_is_imported() -> None:
    names = "block_pool, plan, request, scheduler, speaking, track"
    code = f"from antiphon.sched import {names}; import sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_chunked_prefill() -> None:
    """Each pass has its own budget; the LLM follows what was heard in the same step."""
    world = World(40, max_num_batched_tokens=8, mind=STEADY)
    world.add(world.make(make_prompt([], [1] * 15, speaks=False)))
    world.add(world.make(make_prompt(ids(6), speaks=False)))
    steps = [world.step() for _ in range(4)]
    assert [step.bottom for step in steps] == [
        [("r0", 0, 8, False)],
        [("r0", 8, 16, False)],
        [("r0", 16, 20, False)],
        [],
    ]
    assert [step.text for step in steps] == [
        [("r0", 0, 8, False)],
        [("r0", 8, 16, False)],
        [("r0", 16, 20, True), ("r1", 0, 4, False)],
        [("r0", 20, 21, True), ("r1", 4, 6, True)],
    ]


def test_speech_starts_when_its_text_is_there() -> None:
    world = World(40, mind=STEADY)
    world.add(world.make(make_prompt(ids(6), speaks=True), max_units=9))
    steps = [world.step() for _ in range(5)]
    assert [step.bottom for step in steps] == [[("r0", 0, 6, False)], [], [], [("r0", 6, 7, False)],
                                               [("r0", 7, 8, False)]]  # fmt: skip
    assert [step.text for step in steps] == [[("r0", 0, 6, True)], [("r0", 6, 7, True)],
                                             [("r0", 7, 8, True)], [], []]  # fmt: skip
    assert [step.top for step in steps] == [[("r0", 0, 5, False)], [], [("r0", 5, 6, True)],
                                            [("r0", 6, 7, True)], [("r0", 7, 8, True)]]  # fmt: skip


def test_the_llm_rests_while_nobody_waits() -> None:
    world = World(40, mind=STEADY)
    for _ in range(3):
        world.add(world.make(make_prompt(ids(6), speaks=True), max_units=20))
    steps = world.drain()
    assert [len(step.text) for step in steps[:5]] == [3, 3, 3, 0, 0]
    assert not any(step.text for step in steps[3:])


@pytest.mark.parametrize("text_lookahead", [0, 1, 3])
def test_requests_with_room_come_along(text_lookahead: int) -> None:
    """A text reply waits at every step; the spoken one runs ahead beside it, up to its look-ahead."""
    world = World(40, text_lookahead=text_lookahead, mind=STEADY)
    spoken = world.add(world.make(make_prompt(ids(6), speaks=True), max_units=30))
    for _ in range(5):
        world.step()
    assert spoken.num_text_ahead == 0
    world.add(world.make(make_prompt(ids(7), speaks=False)))
    steps = [world.step() for _ in range(6)]
    # waiting requests are served before those that run ahead
    assert [[name for name, *_ in step.text] for step in steps] == [
        ["r1", "r0"] if i < text_lookahead else ["r1"] for i in range(6)
    ]
    assert spoken.num_text_ahead == text_lookahead


def test_running_ahead_preempts_nobody() -> None:
    """It may take free blocks; when there are none, the request just does not run ahead."""
    world = World(9, text_lookahead=30, enable_prefix_caching=False, mind=STEADY)
    written = world.add(world.make(make_prompt(ids(5), speaks=False), max_tokens=6))
    spoken = world.add(world.make(make_prompt(ids(8), speaks=True), max_units=6))
    steps = world.drain()
    num_served = [len(step.text) for step in steps if written.request_id in [n for n, *_ in step.text]]
    assert num_served == [2, 2, 2, 2, 2, 1], "three ids are asked for, two are ahead"
    assert spoken.num_text_ahead == 2
    assert spoken.num_preemptions == written.num_preemptions == 0


def test_text_that_has_ended_gives_its_blocks_back() -> None:
    """Speech goes on long after its text has ended."""
    mind = Mind(text=lambda _: EOT, unit=lambda _: FIRST_UNIT, label=lambda _: BLANK)
    world = World(9, mind=mind)
    request = world.add(world.make(make_prompt(ids(8), speaks=True), max_units=6))
    world.step()
    assert request.text.block_table == []
    assert request.speech is not None
    assert len(request.speech.block_table) == 2
    assert world.pool.num_free == 7
    world.drain()
    world.check_answer(request)


def test_no_more_run_than_there_are_rows() -> None:
    world = World(40, max_num_seqs=2, mind=STEADY)
    for length in (6, 7, 8, 9):
        world.add(world.make(make_prompt(ids(length), speaks=False), max_tokens=length - 4))
    steps = world.drain()
    admitted = [step.admitted for step in steps]
    # r0 ends at the second step, r1 at the third; the next request takes over the row
    assert admitted == [["r0", "r1"], [], ["r2"], ["r3"], [], [], [], []]


def test_abort_while_waiting() -> None:
    world = World(30, max_num_seqs=1, mind=STEADY)
    first, second, third = (
        world.add(world.make(make_prompt(ids(8), speaks=False), max_tokens=3)) for _ in range(3)
    )
    world.step()
    world.abort(second)
    assert list(world.scheduler.waiting) == [third]
    assert [name for step in world.drain() for name in step.finished] == ["r0", "r2"]
    assert first.finish_reason == third.finish_reason == "length"


@pytest.mark.parametrize("speaks", [False, True], ids=["written", "spoken"])
@pytest.mark.parametrize("units", [(), (1, 2, 3, 4, 5, 6)], ids=["text", "speech"])
def test_abort_at_any_moment(units: tuple[int, ...], speaks: bool) -> None:
    """Before admission, in the middle of a prompt, while it waits for text, after its end: all is free,
    and the others get what they would have got."""
    prompt = make_prompt([20, 21, 22], units, [picture("a")], speaks=speaks)
    for moment in range(16):
        world = World(30, max_num_batched_tokens=5)
        requests = [world.add(world.make(prompt, max_units=8 if speaks else None)) for _ in range(3)]
        for _ in range(moment):
            world.step()
        if requests[1] in world.unfinished:
            world.abort(requests[1])
            assert requests[1].text.block_table == []
            assert requests[1].row is None
        world.drain()
        assert world.pool.num_free == 30
        assert len(set(world.scheduler._rows)) == 8
        for request in (requests[0], requests[2]):
            world.check_answer(request)
