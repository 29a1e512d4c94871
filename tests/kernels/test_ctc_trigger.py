from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from antiphon.kernels import backends, ctc_trigger
from antiphon.sched.speaking import SpeakingState

BACKENDS = backends("ctc_trigger")
BLANK = 3


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_the_backends() -> None:
    assert backends("ctc_trigger") == ["triton", "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@given(spoken=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), max_size=12))
def test_says_what_speaking_says(backend: str, dtype: torch.dtype, spoken: list[list[int]]) -> None:
    """Three requests in rows 4, 0 and 2 of five; a state asks for one more entry when the label is new."""
    states = [
        SpeakingState(blank=BLANK, eot=99, lag=0, carries_speech=lambda _: True, text_input=False)
        for _ in range(3)
    ]
    rows, last = torch.tensor([4, 0, 2]), torch.full((5,), BLANK, dtype=torch.int32)
    text: list[int] = []
    for labels in spoken:
        expected = []
        for state, label in zip(states, labels, strict=True):
            text.append(7)
            state.consume(text, text_ended=False)
            before = len(state.fusion_ids)
            state.read_back(label)
            state.consume([7] * (before + 1), text_ended=False)
            expected.append(len(state.fusion_ids) > before)
        found = ctc_trigger(torch.tensor(labels, dtype=dtype), last, rows, BLANK, backend=backend)
        assert found.dtype == torch.bool
        assert found.tolist() == expected
    assert last[[1, 3]].tolist() == [BLANK, BLANK], "rows that nobody named"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_repeat_across_a_blank_is_not_new(backend: str) -> None:
    last, rows = int32([BLANK, 9]), torch.tensor([0])
    found = [
        ctc_trigger(torch.tensor([label]), last, rows, BLANK, backend=backend).item()
        for label in (BLANK, 1, 1, BLANK, 1, 2, BLANK, 1)
    ]
    assert found == [False, True, False, False, False, True, False, True]
    assert last.tolist() == [1, 9]


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_changes_nothing(backend: str) -> None:
    last = int32([5, 6])
    labels, rows = torch.tensor([1, 2, 4]), torch.tensor([-1, 1, -1])
    assert ctc_trigger(labels, last, rows, BLANK, backend=backend).tolist() == [False, True, False]
    assert last.tolist() == [5, 2]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 1, 2000])
def test_many_requests(backend: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 5, (2 * count,), generator=generator)[::2]
    last = torch.randint(0, 5, (count + 9,), generator=generator, dtype=torch.int32)
    rows = torch.randperm(count + 9, generator=generator)[:count]
    after = last.tolist()
    expected = []
    for label, row in zip(labels.tolist(), rows.tolist(), strict=True):
        expected.append(label not in (BLANK, after[row]))
        after[row] = after[row] if label == BLANK else label
    assert ctc_trigger(labels, last, rows, BLANK, backend=backend).tolist() == expected
    assert last.tolist() == after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.tensor([1.0, 2.0])}, r"labels: expected torch.int64 or torch.int32 .* \(2,\)"),
        ({"last": torch.tensor([1, 2])}, "last: expected torch.int32 of one dimension, got torch.int64"),
        ({"last": int32([1, 2, 3, 4])[::2]}, r"last: expected contiguous, got strides \(2,\)"),
        ({"rows": int32([0, 1])}, "rows: expected torch.int64 of one dimension, got torch.int32"),
        ({"rows": torch.tensor([0])}, "rows: expected one for each of 2 labels, got 1"),
        ({"rows": torch.tensor([0, 2])}, r"rows: expected -1 to 1, got \[0, 2\]"),
        ({"rows": torch.tensor([0, -2])}, r"rows: expected -1 to 1, got \[0, -2\]"),
        ({"rows": torch.tensor([0, 1], device="meta")}, "rows: expected on cpu like labels, got meta"),
        ({"blank": True}, "blank: expected an integer, got True"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    right: dict[str, object] = {
        "labels": torch.tensor([1, 2]),
        "last": int32([0, 0]),
        "rows": torch.tensor([0, 1]),
        "blank": BLANK,
    }
    with pytest.raises(ValueError, match=message):
        ctc_trigger(**(right | arguments))  # type: ignore[arg-type]
