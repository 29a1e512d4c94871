"""The block pool, to the exact block id."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.sched.block_pool import BlockPool


def filled(num_blocks: int, num_cached: int) -> BlockPool:
    """All blocks are free again, the first ones cached as b"0", b"1" ... and given back in this order."""
    pool = BlockPool(num_blocks)
    blocks = pool.allocate(num_blocks)
    assert blocks is not None
    for block in blocks[:num_cached]:
        pool.publish(block, str(block).encode(), payload=[block])
        pool.free([block])
    pool.free(blocks[num_cached:])
    pool.check_integrity()
    return pool


def test_blocks_come_in_order() -> None:
    pool = BlockPool(5)
    assert pool.allocate(2) == [0, 1]
    assert pool.allocate(0) == []
    assert pool.allocate(2) == [2, 3]
    assert pool.num_free == 1


def test_no_room_changes_nothing() -> None:
    pool = BlockPool(3)
    assert pool.allocate(2) == [0, 1]
    assert pool.allocate(2) is None
    assert pool.num_free == 1
    assert pool.allocate(1) == [2]
    assert pool.allocate(1) is None
    pool.check_integrity()


def test_empty_blocks_are_reused_before_cached_ones() -> None:
    """Cached blocks go last, the one cached longest ago first."""
    pool = filled(6, num_cached=3)
    assert pool.allocate(4) == [3, 4, 5, 0]
    assert pool.lookup(b"0") is None
    assert pool.lookup(b"1") is not None
    assert pool.allocate(2) == [1, 2]
    assert len(pool._cached) == 0
    pool.check_integrity()


def test_the_end_of_a_sequence_is_lost_first() -> None:
    """A prefix is useful without what follows it, but not the other way round."""
    pool = BlockPool(4)
    blocks = pool.allocate(4)
    assert blocks is not None
    for block in blocks:
        pool.publish(block, bytes([block]))
    pool.free(blocks)
    assert pool.allocate(2) == [3, 2]


def test_use_makes_recent() -> None:
    pool = filled(3, num_cached=3)
    pool.acquire([0])
    pool.free([0])
    assert pool.allocate(3) == [1, 2, 0]


def test_a_shared_block_is_free_when_all_holders_have_let_go() -> None:
    pool = filled(3, num_cached=1)
    hit = pool.lookup(b"0")
    assert hit is not None
    assert hit.payload == [0]
    pool.acquire([0])
    pool.acquire([0])
    assert pool.num_free == 2
    pool.free([0])
    assert pool.num_free == 2
    assert pool.allocate(3) is None, "one is still in use"
    pool.free([0])
    assert pool.num_free == 3
    assert pool.lookup(b"0") is not None, "and still cached"
    pool.check_integrity()


def test_only_the_sole_holder_of_a_block_may_write_to_it_again() -> None:
    pool = BlockPool(3)
    assert pool.allocate(1) == [0]
    assert pool.is_exclusive(0)
    pool.publish(0, b"a")
    assert not pool.is_exclusive(0), "it may be found"
    pool.acquire([0])
    pool.reset_prefix_cache()
    assert not pool.is_exclusive(0), "it is read by two"
    pool.free([0])
    assert pool.is_exclusive(0)


def test_of_equal_contents_the_first_block_stays_cached() -> None:
    pool = BlockPool(2)
    assert pool.allocate(2) == [0, 1]
    pool.publish(0, b"same")
    pool.publish(1, b"same")
    found = pool.lookup(b"same")
    assert found is not None
    assert found.block_id == 0
    assert pool.block(1).digest is None
    pool.publish(0, b"other")
    assert pool.lookup(b"other") is None, "contents have one name"
    pool.check_integrity()


def test_without_prefix_caching() -> None:
    pool = BlockPool(2, enable_prefix_caching=False)
    assert pool.allocate(1) == [0]
    pool.publish(0, b"text")
    assert pool.lookup(b"text") is None
    assert len(pool._cached) == 0


def test_reset_forgets_contents_but_not_use() -> None:
    pool = filled(3, num_cached=2)
    pool.acquire([1])
    pool.reset_prefix_cache()
    assert len(pool._cached) == 0
    assert pool.lookup(b"1") is None
    assert pool.num_free == 2
    pool.check_integrity()
    pool.free([1])
    assert pool.num_free == 3


def test_a_double_free_is_an_error() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.free(blocks)
    with pytest.raises(RuntimeError, match="block 0 was freed twice"):
        pool.free(blocks)
    with pytest.raises(RuntimeError, match="block 1 was freed twice"):
        pool.free([1])
    pool.check_integrity()


def test_a_free_block_cannot_be_published() -> None:
    with pytest.raises(AssertionError, match="block 0 is free and cannot be published"):
        BlockPool(1).publish(0, b"nothing")


def test_a_pool_needs_blocks() -> None:
    with pytest.raises(AssertionError, match="a pool needs at least one block"):
        BlockPool(0)


def test_integrity_tells_what_is_wrong() -> None:
    pool = filled(3, num_cached=1)
    pool.block(0).ref_count = 1
    with pytest.raises(AssertionError, match="1 used and 3 free blocks do not make 3"):
        pool.check_integrity()
    pool.block(0).ref_count = 0
    pool.block(0).digest = b"else"
    with pytest.raises(AssertionError, match="block 0 is miscached"):
        pool.check_integrity()


operations = st.one_of(
    st.tuples(st.just("allocate"), st.integers(0, 4)),
    st.tuples(st.just("free"), st.integers(0, 9)),
    st.tuples(st.just("publish"), st.integers(0, 9)),
    st.tuples(st.just("acquire"), st.integers(0, 9)),
    st.tuples(st.just("reset"), st.just(0)),
)


@pytest.mark.slow
@settings(max_examples=100, derandomize=True)
@given(num_blocks=st.integers(1, 8), todo=st.lists(operations, max_size=60))
def test_nothing_is_ever_lost(num_blocks: int, todo: list[tuple[str, int]]) -> None:
    """Against a model: sequences that hold blocks, and names of contents that must be theirs."""
    pool = BlockPool(num_blocks)
    held: list[list[int]] = []
    names: dict[bytes, int] = {}
    for name, number in todo:
        if name == "allocate":
            blocks = pool.allocate(number)
            in_use = {block for sequence in held for block in sequence}
            assert (blocks is None) == (number > num_blocks - len(in_use))
            if blocks:
                assert not in_use & set(blocks)
                assert len(set(blocks)) == number
                held.append(blocks)
                names = {digest: block for digest, block in names.items() if block not in blocks}
        elif name == "free" and held:
            pool.free(held.pop(number % len(held)))
        elif name == "publish" and held:
            block, digest = held[number % len(held)][0], bytes([number])
            if digest not in names and block not in names.values():
                names[digest] = block
            pool.publish(block, digest)
        elif name == "acquire" and (found := pool.lookup(bytes([number]))) is not None:
            pool.acquire([found.block_id])
            held.append([found.block_id])
        elif name == "reset":
            pool.reset_prefix_cache()
            names = {}
        pool.check_integrity()
        assert pool.num_free == num_blocks - len({block for sequence in held for block in sequence})
        for digest in map(bytes, ([i] for i in range(10))):
            found = pool.lookup(digest)
            assert (found.block_id if found else None) == names.get(digest)
    for sequence in held:
        pool.free(sequence)
    assert pool.num_free == num_blocks
