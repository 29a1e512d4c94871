from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from antiphon.codec.batches import MAX_PADDING, plan_batches


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(0, 2000))
def test_each_once_within_bounds(frames: list[int], max_frames: int) -> None:
    batches = plan_batches(frames, max_frames)
    assert sorted(i for batch in batches for i in batch) == list(range(len(frames)))
    for batch in batches:
        lengths = [frames[i] for i in batch]
        padded = max(lengths) * len(lengths)
        assert len(batch) == 1 or padded <= max_frames
        assert sum(lengths) >= (1 - MAX_PADDING) * padded


def test_equal_lengths_share_a_batch() -> None:
    assert [len(batch) for batch in plan_batches([10] * 7, 30)] == [3, 3, 1]


def test_without_room_each_goes_alone() -> None:
    assert plan_batches([3, 5, 4], 0) == [[1], [2], [0]]
