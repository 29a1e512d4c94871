from __future__ import annotations

import numpy as np
import pytest
import torch

from antiphon.codec.noise import EXCITATION, MEL, normal_rows, uniform_rows


@pytest.mark.parametrize("width", [80, 9 * 256, 3, 1])
@pytest.mark.parametrize("first", [-7, -1, 0, 5])
def test_rows_do_not_depend_on_what_is_asked_with_them(width: int, first: int) -> None:
    together = normal_rows(11, MEL, first, 9, width)
    for i in range(9):
        assert np.array_equal(normal_rows(11, MEL, first + i, 1, width)[0], together[i])


def test_it_is_standard_normal() -> None:
    values = normal_rows(0, MEL, 0, 4000, 80).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.06
    assert 4 < abs(values).max() < 7


def test_it_is_uniform() -> None:
    values = uniform_rows(0, MEL, 0, 1000, 9)
    assert values.shape == (1000, 9)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01


def test_seeds_and_streams_differ() -> None:
    base = normal_rows(1, MEL, 0, 5, 80)
    assert not np.array_equal(base, normal_rows(2, MEL, 0, 5, 80))
    assert not np.array_equal(base, normal_rows(1, EXCITATION, 0, 5, 80))
    assert np.isfinite(normal_rows(-(2**70), MEL, 0, 5, 80)).all()


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the state that must not move)
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    normal_rows(0, MEL, 0, 5, 80)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
