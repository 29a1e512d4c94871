from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from antiphon.kernels import backends, rms_norm
from antiphon.kernels.rms_norm import rms_norm_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
EPS = 1e-5

# the last one goes parallel
SHAPES = [(1, 1), (0, 8), (3, 7), (1, 16), (5, 33), (2, 100), (9, 512), (301, 250)]


def test_the_backends() -> None:
    assert backends("rms_norm") == ["cpp", "torch"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_within_the_error_budget(
    backend: str, shape: tuple[int, int], scale: float, randn: Draw, assert_within_budget: Check
) -> None:
    x, weight = randn(*shape) * scale, randn(shape[1])
    found = rms_norm(x, weight, EPS, backend=backend)
    exact = rms_norm_reference(x.double(), weight.double(), EPS)
    assert_within_budget(found, rms_norm_reference(x, weight, EPS), exact)
    by_hand = x.double() / (x.double().pow(2).mean(1, keepdim=True) + EPS).sqrt() * weight.double()
    torch.testing.assert_close(exact, by_hand)


def test_a_row_of_zeros_stays_zero(backend: str) -> None:
    assert not rms_norm(torch.zeros(2, 20), torch.ones(20), EPS, backend=backend).any()


def test_a_row_does_not_depend_on_its_batch(isa: str, randn: Draw) -> None:
    x, weight = randn(700, 101), randn(101)
    whole = rms_norm(x, weight, EPS, backend="cpp")
    for start, end in [(0, 1), (350, 357), (1, 700)]:
        assert torch.equal(rms_norm(x[start:end], weight, EPS, backend="cpp"), whole[start:end])


def test_strided_input(backend: str, randn: Draw) -> None:
    x, weight = randn(4, 21), randn(42)[::2]
    expected = rms_norm_reference(x, weight, EPS)
    torch.testing.assert_close(rms_norm(x.T.contiguous().T, weight, EPS, backend=backend), expected)


def test_16_bits_round_before_the_weight(randn: Draw) -> None:
    """As the released code does: the normed row is rounded, then multiplied."""
    x, weight = randn(3, 64).bfloat16(), randn(64).bfloat16()
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + EPS)
    assert torch.equal(rms_norm(x, weight, EPS), weight * normed.bfloat16())


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    with pytest.raises(ValueError, match=r"x, weight: expected \(rows, n\) and \(n\), got \(2, 3\), \(4,\)"):
        rms_norm(randn(2, 3), randn(4), EPS, backend=backend)
    with pytest.raises(ValueError, match="x, weight: expected"):
        rms_norm(randn(3), randn(3), EPS, backend=backend)
    with pytest.raises(ValueError, match=r"weight: expected torch.float32 like x, got torch.float64"):
        rms_norm(randn(2, 3), randn(3).double(), EPS, backend=backend)
