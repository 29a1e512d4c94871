"""argmax: every backend against numpy, ties included."""

from __future__ import annotations

import pytest
import torch

from antiphon.kernels.argmax import argmax
from antiphon.kernels.registry import backends


@pytest.mark.parametrize("backend", backends("argmax"))
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 7), (2, 16), (5, 17), (4, 1000), (40, 9216)])
def test_the_first_of_the_largest(backend: str, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(shape[1])
    few_values = torch.randint(-3, 4, shape, generator=generator).float()  # so that there are ties
    for logits in (few_values, torch.randn(shape, generator=generator), torch.full(shape, -torch.inf)):
        assert argmax(logits, backend=backend).tolist() == logits.numpy().argmax(-1).tolist()


@pytest.mark.parametrize("backend", backends("argmax"))
def test_rows_of_a_wider_matrix(backend: str) -> None:
    logits = torch.randn(6, 64)[:, 3:40]
    assert argmax(logits, backend=backend).tolist() == logits.numpy().argmax(-1).tolist()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="logits: expected"):
        argmax(torch.zeros(3))
    with pytest.raises(ValueError, match="logits: expected"):
        argmax(torch.zeros(3, 0))
