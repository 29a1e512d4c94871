"""Index tensors of decode steps, and of steps that are padded to a recorded size."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.batch import joined_batch

sequences = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 1000)), min_size=1, max_size=9)


@given(sequences, st.integers(1, 5))
def test_one_copy_holds_all(numbers: list[tuple[int, int]], width: int) -> None:
    positions, slots = ([pair[k] for pair in numbers] for k in (0, 1))
    ends = [position + 1 for position in positions]
    table = [[slot + k for k in range(width)] for slot in slots]
    batch = joined_batch(positions, slots, ends, table, torch.device("cpu"))
    assert batch.positions.tolist() == positions
    assert batch.slot_mapping.tolist() == slots
    assert batch.context_lens.tolist() == ends
    assert batch.cu_seqlens_q.tolist() == list(range(len(numbers) + 1))
    assert batch.block_table.tolist() == table
    int32 = (batch.positions, batch.context_lens, batch.cu_seqlens_q, batch.block_table)
    assert all(tensor.dtype == torch.int32 and tensor.is_contiguous() for tensor in int32)
    assert batch.slot_mapping.dtype == torch.int64
