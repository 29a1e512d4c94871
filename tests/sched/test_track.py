"""One track: its blocks, and the prefixes it shares."""

from __future__ import annotations

import pytest

from antiphon.sched.block_pool import BlockPool
from antiphon.sched.track import Track

KEYS = tuple(range(10))


def computed(pool: BlockPool, keys: tuple[int, ...] = KEYS, seed: bytes = b"text", size: int = 4) -> Track:
    """A track whose known positions are all computed and shared."""
    track = Track(size, seed, keys)
    assert track.reserve(pool, len(keys))
    track.num_computed = len(keys)
    track.publish(pool, len(keys), payloads=[str(key) for key in keys])
    return track


def prefix(pool: BlockPool, keys: tuple[int, ...], limit: int = 100, seed: bytes = b"text") -> list[int]:
    return Track(4, seed, keys).cached_prefix(pool, limit)


def test_room_comes_in_whole_blocks() -> None:
    pool = BlockPool(4)
    track = Track(4, b"text", KEYS)
    assert [track.blocks_missing(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert track.reserve(pool, 5)
    assert track.block_table == [0, 1]
    assert track.reserve(pool, 8)
    assert track.reserve(pool, 3)
    assert track.block_table == [0, 1]
    assert track.reserve(pool, 9)
    assert track.block_table == [0, 1, 2]


def test_no_room_changes_nothing() -> None:
    pool = BlockPool(2)
    track = Track(4, b"text", KEYS)
    assert track.reserve(pool, 4)
    assert not track.reserve(pool, 10)
    assert track.block_table == [0]
    assert pool.num_free == 1


def test_full_blocks_of_computed_positions_are_shared() -> None:
    pool = BlockPool(9)
    computed(pool)
    assert prefix(pool, KEYS) == [0, 1], "positions 8 and 9 fill no block"
    assert prefix(pool, KEYS, limit=7) == [0]
    assert prefix(pool, KEYS, limit=3) == []
    assert prefix(pool, KEYS[:7]) == [0]
    assert prefix(pool, (*KEYS[:7], 99, *KEYS[8:])) == [0], "the second block differs"
    assert prefix(pool, (99, *KEYS[1:])) == [], "equal blocks after a difference are others"
    assert prefix(pool, KEYS, seed=b"speech") == []
    computed(pool, (99,) * 4)
    assert prefix(pool, (*[99] * 4, *KEYS[4:])) == [3], "nor is a block that follows another beginning"
    assert pool.block(1).payload == ["4", "5", "6", "7"]


def test_block_sizes_do_not_mix() -> None:
    """With other positions in a block, its digest differs."""
    pool = BlockPool(9)
    computed(pool)
    assert Track(2, b"text", KEYS).cached_prefix(pool, 10) == []


def test_a_block_is_shared_when_it_is_full_and_not_before() -> None:
    pool = BlockPool(9)
    track = Track(4, b"text", KEYS)
    assert track.reserve(pool, 10)
    for num_computed, shared in [(3, 0), (4, 1), (7, 1), (8, 2), (10, 2)]:
        track.publish(pool, num_computed)
        assert len(pool._cached) == shared


def test_only_shareable_positions_are_shared() -> None:
    pool = BlockPool(9)
    track = Track(4, b"text", KEYS, num_shareable=7)
    assert track.reserve(pool, 10)
    track.publish(pool, 10)
    assert prefix(pool, KEYS) == [0]
    computed(pool)
    assert Track(4, b"text", KEYS, num_shareable=7).cached_prefix(pool, 10) == [0], "nor is more taken over"


def test_keys_that_become_known_are_shared_too() -> None:
    pool = BlockPool(9)
    track = computed(pool)
    track.append(10)
    track.append(11)
    track.publish(pool, 12)
    assert prefix(pool, tuple(range(12))) == [0, 1, 2]


def test_ids_that_are_not_the_keys_have_keys_beside_them() -> None:
    """Digests are those of the keys, through every change of what is known."""
    pool = BlockPool(9)
    track = Track(4, b"text", [0] * 8, keys=KEYS[:8])
    track.append(8)
    track.append(9)
    assert (list(track.ids), tuple(track.keys)) == ([*[0] * 8, 8, 9], KEYS)
    computed(pool).release(pool)
    assert track.cached_prefix(pool, 10) == [0, 1]
    track.replace_tail(pool, 6, [0, 0], [66, 77])
    track.append(88)
    assert (list(track.ids), list(track.keys)) == ([*[0] * 8, 88], [0, 1, 2, 3, 4, 5, 66, 77, 88])
    assert track.cached_prefix(pool, 10) == [0]
    track.restart(8, [99])
    assert (list(track.ids), list(track.keys)) == ([*[0] * 8, 99], [0, 1, 2, 3, 4, 5, 66, 77, 99])


def test_adopting_and_releasing() -> None:
    pool = BlockPool(5)
    computed(pool).release(pool)
    assert pool.num_free == 5
    track = Track(4, b"text", KEYS)
    track.adopt(pool, track.cached_prefix(pool, 9))
    assert track.block_table == [0, 1]
    assert track.num_computed == 8
    assert pool.num_free == 3
    assert track.reserve(pool, 10)
    assert track.block_table == [0, 1, 2]
    track.publish(pool, 10)
    track.release(pool)
    assert (track.block_table, track.num_computed) == ([], 0)
    assert pool.num_free == 5
    with pytest.raises(RuntimeError, match="freed twice"):
        pool.free([0])


def test_a_track_adopts_once() -> None:
    pool = BlockPool(5)
    track = computed(pool)
    with pytest.raises(AssertionError, match="adopts blocks before it has any"):
        track.adopt(pool, [0])


def test_releasing_a_part_keeps_whole_blocks() -> None:
    pool = BlockPool(5)
    track = computed(pool)
    track.release(pool, keep_positions=5)
    assert track.block_table == [0, 1]
    assert track.num_computed == 5, "what is behind is computed again"
    track.release(pool, keep_positions=4)
    assert (track.block_table, track.num_computed) == ([0], 4)
    assert track.reserve(pool, 10)
    track.publish(pool, 10)
    pool.check_integrity()
    assert prefix(pool, KEYS) == [0, 1], "the contents are still there, in whichever block"
    track.release(pool)
    assert pool.num_free == 5


def test_a_lost_block_is_shared_again() -> None:
    pool = BlockPool(3)
    track = computed(pool)
    track.release(pool, keep_positions=4)
    assert pool.allocate(2) == [2, 1], "block 1 is taken over"
    pool.free([2, 1])
    assert prefix(pool, KEYS) == [0]
    assert track.reserve(pool, 10)
    track.publish(pool, 10)
    assert prefix(pool, KEYS) == track.block_table[:2]


def test_without_prefix_caching() -> None:
    pool = BlockPool(5, enable_prefix_caching=False)
    computed(pool)
    assert prefix(pool, KEYS) == []
    assert len(pool._cached) == 0


@pytest.mark.parametrize(
    ("num_positions", "blocks", "num_computed"),
    [(10, 3, 10), (9, 3, 9), (8, 2, 8), (7, 1, 4), (4, 1, 4), (2, 0, 0)],
)
def test_rewinding_keeps_off_published_blocks(num_positions: int, blocks: int, num_computed: int) -> None:
    """Of ten positions in blocks of 4, the last two are in a block that is not full, so not shared."""
    pool = BlockPool(5)
    track = computed(pool)
    track.rewind(pool, num_positions)
    assert (track.block_table, track.num_computed) == ([0, 1, 2][:blocks], num_computed)
    pool.check_integrity()
    assert prefix(pool, KEYS) == [0, 1], "what was given back can still be found"


def test_rewinding_keeps_a_part_of_a_block_of_its_own() -> None:
    pool = BlockPool(5, enable_prefix_caching=False)
    track = computed(pool)
    track.rewind(pool, 6)
    assert (track.block_table, track.num_computed) == ([0, 1], 6)


def test_rewinding_to_a_point_after_the_computed_positions_gives_back_reserved_blocks() -> None:
    pool = BlockPool(5)
    track = Track(4, b"text", KEYS)
    assert track.reserve(pool, 10)
    track.num_computed = 3
    track.rewind(pool, 6)
    assert (track.block_table, track.num_computed) == ([0, 1], 3)


def test_another_tail_has_other_digests() -> None:
    """The block that the change cuts was looked up before: its digest must not be that of the old keys."""
    pool = BlockPool(9)
    track = computed(pool)
    other = (*KEYS[:6], 66, 77, 88)
    track.replace_tail(pool, 6, other[6:])
    assert tuple(track.ids) == other
    assert track.block_table == [0]
    assert track.reserve(pool, 9)
    track.num_computed = 9
    track.publish(pool, 9)
    assert prefix(pool, KEYS) == [0, 1]
    assert prefix(pool, other) == track.block_table[:2]
    assert track.block_table[1] != 1
    pool.check_integrity()


def test_a_block_that_could_not_be_published_is_its_own() -> None:
    """Equal contents were there first. After a change it holds others, by which it can be found."""
    pool = BlockPool(9)
    computed(pool)
    track = computed(pool)
    assert track.block_table == [3, 4, 5]
    track.replace_tail(pool, 6, [66, 77])
    assert (track.block_table, track.num_computed) == ([3, 4], 6)
    track.num_computed = 8
    track.publish(pool, 8)
    assert prefix(pool, (*KEYS[:6], 66, 77)) == [0, 4]
