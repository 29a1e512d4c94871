"""Which blocks requests hold and which they share, to the exact id."""

from __future__ import annotations

from fake_model import STEADY, ids, make_prompt, picture
from fake_world import World


def test_blocks_follow_what_is_known() -> None:
    """One more block whenever the last is full; all are free at the end, the partly filled one first."""
    world = World(10, mind=STEADY)
    request = world.add(world.make(make_prompt(ids(7), speaks=False), max_tokens=7))
    tables = []
    while not request.finished:
        world.step()
        tables.append(list(request.text.block_table))
    # positions computed: 7 of the prompt, then one a step; the last id is not fed back
    assert tables == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2], []]
    assert world.pool.num_free == 10
    assert world.pool.allocate(10) == [3, 4, 5, 6, 7, 8, 9, 2, 1, 0]


def test_both_tracks_take_from_one_pool() -> None:
    """Speech positions are smaller here: 8 to a block, and 4 text positions."""
    world = World(10, num_text_layers=4, num_speech_layers=2, mind=STEADY)
    request = world.add(world.make(make_prompt([], [7] * 4, speaks=True), max_units=3))
    world.step()
    assert request.speech is not None
    assert (request.speech.block_size, request.text.block_size) == (8, 4)
    assert (request.speech.block_table, request.text.block_table) == ([0, 1], [2, 3, 4])
    world.drain()
    world.check_answer(request)
    assert world.pool.num_free == 10


def test_a_prefix_over_ids() -> None:
    world = World(20, mind=STEADY)
    prompts = [(*ids(12), 30), (*ids(12), 30, 31), (*ids(10), 33, 30), ids(9, first=21)]
    tables = []
    for prompt in prompts:
        request = world.add(world.make(make_prompt(prompt, speaks=False), max_tokens=9))
        world.step()
        tables.append(list(request.text.block_table))
    # the second prompt shares 3 blocks with the first, the third 2, the last the opening alone
    assert tables == [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 5], [0, 6, 7]]
    cached = [request.num_cached_tokens for request in world.requests.values()]
    assert cached == [0, 12, 8, 4]
    world.drain()
    assert world.pool.num_free == 20


def test_at_least_one_position_is_computed() -> None:
    """A repeated prompt computes its last position, which gives the next id, whatever is cached."""
    world = World(20, mind=STEADY)
    prompt = make_prompt(ids(8), speaks=False)
    first = world.add(world.make(prompt, max_tokens=9))
    world.drain()
    second = world.add(world.make(prompt, max_tokens=9))
    assert world.step().text == [("r1", 4, 8, True)]
    assert second.num_cached_tokens == 4
    world.drain()
    assert second.text_ids == first.text_ids


def test_a_reply_is_a_prefix_of_the_next_turn() -> None:
    world = World(20, mind=STEADY)
    first = world.add(world.make(make_prompt(ids(8), speaks=False), max_tokens=9))
    world.drain()
    # closing (6), nine ids, of which the last was not computed
    again = [*ids(8), 6, *first.text_ids]
    second = world.add(world.make(make_prompt([*again, 21], speaks=False)))
    world.step()
    assert second.num_cached_tokens == 16


def test_a_prefix_over_pictures() -> None:
    """The ids are the same; the pictures' contents decide."""
    world = World(40, mind=STEADY)
    cached = []
    for names in ("ab", "ab", "ac", "cb"):
        pictures = [picture(name, 2) for name in names]
        request = world.add(world.make(make_prompt([20], [], pictures, speaks=False), max_tokens=3))
        world.drain()
        cached.append(request.num_cached_tokens)
    # opening 4, picture 4, one id, picture 4, one id, 20, closing: 16 positions
    assert cached == [0, 12, 8, 4]


def test_soft_and_plain_never_mix() -> None:
    """A spoken prompt begins with the ids of a written one, but the LLM reads them differently."""
    world = World(40)
    written = world.add(world.make(make_prompt(ids(13), speaks=False)))
    world.drain()
    spoken = world.add(world.make(make_prompt(ids(13)[:4], [1, 2, 3, 4], speaks=False)))
    world.drain()
    assert spoken.num_cached_tokens == 0
    for request in (written, spoken):
        world.check_answer(request)


def test_speaking_and_listening_never_mix() -> None:
    """A request that does not speak leaves its top layers empty. The text track may be shared."""
    world = World(40, mind=STEADY)
    prompt = make_prompt([], [1, 2, 3, 4, 5, 6, 7], speaks=True)
    speech_starts, text_starts = [], []
    for max_units in (None, 4, 4, None):
        world.add(world.make(prompt, max_units=max_units))
        steps = world.drain()
        speech_starts.append(steps[0].bottom[0][1])
        text_starts.append(steps[0].text[0][1])
    # 12 positions, of which the last must be computed: full blocks hold 8 of the others
    assert text_starts == [0, 8, 8, 8]
    assert speech_starts == [0, 0, 8, 8], "the second finds no top layers, the last finds what the first left"
    for request in world.requests.values():
        world.check_answer(request)


def test_blocks_are_shared_once_both_stacks_are_through() -> None:
    """A request that is preempted between the bottom and the top pass leaves nothing that looks whole."""
    world = World(40)
    request = world.add(world.make(make_prompt([], [1] * 11, speaks=True), max_units=4))
    world.scheduler.admit()
    world.heard["r0"] = {}
    plan = world.scheduler.schedule_bottom()
    world.scheduler.complete_bottom(plan, [world.hear(chunk) for chunk in plan.chunks])
    assert len(world.pool._cached) == 0
    world.scheduler.preempt(request)
    world.drain()
    world.check_answer(request)


def test_labels_come_with_the_blocks() -> None:
    """The transcript is complete, though most of the prompt was not read again."""
    world = World(40)
    prompt = make_prompt([], list(range(11)), speaks=False)
    first = world.add(world.make(prompt))
    world.drain()
    second = world.add(world.make(prompt))
    assert world.step().bottom == [("r1", 12, 16, False)]
    assert second.prompt_labels == first.prompt_labels
    assert None not in second.prompt_labels[4:-1]


def test_soft_text_needs_the_bottom_layers_again() -> None:
    """Speech blocks are cached, text blocks are lost: soft embeddings are not kept, so both start over."""
    world = World(40, mind=STEADY)
    prompt = make_prompt([], [1] * 11, speaks=False)
    world.add(world.make(prompt, max_tokens=2))
    world.drain()
    for block_id in range(40):  # the first request's: 0 to 3 of speech, 4 to 7 of text
        block = world.pool.block(block_id)
        if block.digest is not None and block.payload is None:
            world.pool._forget(block)
    world.add(world.make(prompt, max_tokens=2))
    step = world.step()
    assert step.bottom == [("r1", 0, 16, False)]
    assert step.text == [("r1", 0, 16, True)]


def test_without_prefix_caching() -> None:
    world = World(40, enable_prefix_caching=False, mind=STEADY)
    for _ in range(2):
        request = world.add(world.make(make_prompt(ids(13), speaks=False)))
        world.drain()
        assert request.num_cached_tokens == 0
    assert len(world.pool._cached) == 0
