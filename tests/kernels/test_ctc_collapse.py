"""CTC collapse: every backend equals the reference, which equals a loop that can be read at a glance."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from devices import device_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from antiphon.kernels import CollapsedLabels, backends, ctc_collapse
from antiphon.kernels.ctc_collapse import ctc_collapse_reference

BACKENDS = backends("ctc_collapse")
BLANK = 0

# Few labels, so that repeats and blanks are frequent.
rows_of_labels = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6)


def collapse_by_hand(row: list[int], blank: int, before: int) -> list[tuple[int, int]]:
    kept = []
    for frame, label in enumerate(row):
        if label not in (before, blank):
            kept.append((label, frame))
        before = label
    return kept


def int32(values: list[int], backend: str = "cpp") -> Tensor:
    """Where the backend takes them."""
    return torch.tensor(values, dtype=torch.int32, device=device_of(backend))


def ragged(rows: list[list[int]], backend: str) -> tuple[Tensor, Tensor]:
    bounds = [0, *accumulate(len(row) for row in rows)]
    return int32([label for row in rows for label in row], backend), int32(bounds, backend)


def unpacked(collapsed: CollapsedLabels) -> list[list[tuple[int, int]]]:
    """(id, frame) pairs, row by row."""
    assert all(tensor.dtype == torch.int32 for tensor in collapsed)
    pairs = list(zip(collapsed.ids.tolist(), collapsed.frames.tolist(), strict=True))
    bounds = collapsed.cu_out.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(pairs)
    return [pairs[start:end] for start, end in pairwise(bounds)]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_collapse_means(backend: str) -> None:
    a, b = 7, 9
    labels, cu_seqlens = ragged([[a, a, BLANK, a, b, b], [], [BLANK, BLANK], [b]], backend)
    ids, cu_out, frames, last = ctc_collapse(labels, cu_seqlens, BLANK, backend=backend)
    assert ids.tolist() == [a, a, b, b]
    assert frames.tolist() == [0, 3, 4, 0]
    assert cu_out.tolist() == [0, 3, 3, 3, 4]
    assert last.tolist() == [b, -1, BLANK, b]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@given(rows=rows_of_labels, blank=st.integers(0, 3), data=st.data())
def test_equals_the_loop(backend: str, rows: list[list[int]], blank: int, data: st.DataObject) -> None:
    prev = data.draw(st.none() | st.lists(st.integers(-1, 3), min_size=len(rows), max_size=len(rows)))
    before = prev if prev is not None else [-1] * len(rows)
    labels, cu_seqlens = ragged(rows, backend)
    collapsed = ctc_collapse(
        labels, cu_seqlens, blank, int32(prev, backend) if prev is not None else None, backend=backend
    )
    pairs = list(zip(rows, before, strict=True))
    assert unpacked(collapsed) == [collapse_by_hand(row, blank, label) for row, label in pairs]
    assert collapsed.last.tolist() == [row[-1] if row else label for row, label in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@given(rows=rows_of_labels, data=st.data())
@pytest.mark.long
def test_chunked_equals_whole(backend: str, rows: list[list[int]], data: st.DataObject) -> None:
    num_chunks = 3
    edges = [
        [0, *sorted(data.draw(st.integers(0, len(row))) for _ in range(num_chunks - 1)), len(row)]
        for row in rows
    ]
    heard: list[list[tuple[int, int]]] = [[] for _ in rows]
    prev = None
    for chunk in range(num_chunks):
        chunks = [row[edge[chunk] : edge[chunk + 1]] for row, edge in zip(rows, edges, strict=True)]
        collapsed = ctc_collapse(*ragged(chunks, backend), BLANK, prev, backend=backend)
        for pairs, more, edge in zip(heard, unpacked(collapsed), edges, strict=True):
            pairs += [(label, edge[chunk] + frame) for label, frame in more]
        prev = collapsed.last
    assert heard == unpacked(ctc_collapse(*ragged(rows, backend), BLANK, backend=backend))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1), (257, 391), (3, 40_000)], ids=str)
def test_large_batches_equal_the_reference(backend: str, shape: tuple[int, int]) -> None:
    """Large enough that the C++ kernel goes parallel over rows, some of them empty."""
    generator = torch.Generator().manual_seed(5)
    batch, longest = shape
    lengths = torch.randint(0, longest + 1, (batch,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    labels = torch.randint(0, 4, (int(cu_seqlens[-1]),), generator=generator, dtype=torch.int32)
    prev = torch.randint(-1, 4, (batch,), generator=generator, dtype=torch.int32)
    device = device_of(backend)
    collapsed = ctc_collapse(
        labels.to(device), cu_seqlens.to(device), BLANK, prev.to(device), backend=backend
    )
    for found, expected in zip(
        collapsed, ctc_collapse_reference(labels, cu_seqlens, BLANK, prev), strict=True
    ):
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_input(backend: str) -> None:
    labels = int32([1, 9, 1, 9, 0, 9, 2, 9], backend)[::2]
    prev = int32([1, 8], backend)[::2]
    assert not labels.is_contiguous()
    assert ctc_collapse(labels, int32([0, 4], backend), BLANK, prev, backend=backend).ids.tolist() == [2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "bounds",
    [[0, 3], [1, 2], [0, 1], [0, 3, 1, 2], [-5, 2], [0, -(2**31), 2**31 - 1, 2], [0, 2, 0, 2, 0, 2], []],
)
def test_wrong_bounds_are_named(backend: str, bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens: expected to rise from 0 to the 2 labels"):
        ctc_collapse(int32([1, 2], backend), int32(bounds, backend), BLANK, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: str) -> None:
    collapsed = ctc_collapse(int32([], backend), int32([0], backend), BLANK, backend=backend)
    assert [tensor.tolist() for tensor in collapsed] == [[], [0], [], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [1, 2]}, "labels: expected a tensor, got list"),
        (
            {"labels": torch.tensor([1, 2])},
            r"labels: expected int32 of one dimension, got torch.int64 \(2,\)",
        ),
        (
            {"labels": int32([1, 2])[None]},
            r"labels: expected int32 of one dimension, got torch.int32 \(1, 2\)",
        ),
        ({"cu_seqlens": int32([0, 3])}, r"cu_seqlens: expected to rise from 0 to the 2 labels, got \[0, 3\]"),
        ({"cu_seqlens": int32([1, 2])}, "cu_seqlens: expected to rise from 0"),
        ({"cu_seqlens": int32([0, 3, 1, 2])}, "cu_seqlens: expected to rise from 0"),
        ({"cu_seqlens": int32([])}, "cu_seqlens: expected to rise from 0"),
        ({"prev": int32([1, 1])}, "prev: expected one label for each of 1 rows, got 2"),
        ({"prev": torch.tensor([1])}, "prev: expected int32"),
        (
            {"prev": torch.empty(1, dtype=torch.int32, device="meta")},
            "prev: expected on cpu like labels, got meta",
        ),
        ({"blank": 2**31}, "blank: expected a 32-bit integer, got 2147483648"),
        ({"blank": True}, "blank: expected a 32-bit integer, got True"),
        ({"backend": "tpu"}, "backend: expected one of cpp, cuda, triton, torch, got 'tpu'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    right: dict[str, object] = {"labels": int32([1, 2]), "cu_seqlens": int32([0, 2]), "blank": BLANK}
    with pytest.raises(ValueError, match=message):
        ctc_collapse(**(right | arguments))  # type: ignore[arg-type]
