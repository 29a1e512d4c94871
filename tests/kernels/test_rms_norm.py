from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import rms_norm, rms_norm_residual
from antiphon.kernels.rms_norm import rms_norm_reference, rms_norm_residual_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
EPS = 1e-5

# the last one goes parallel
SHAPES = [(0, 8), (1, 1), (5, 33), (17, 4001)]


@pytest.mark.pairwise(shape=SHAPES, scale=[1.0, 1e-4, 1e4], eps=[EPS, 1e-7])
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[int, int],
    scale: float,
    eps: float,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    x, weight = (randn(*shape) * scale).to(device), randn(shape[1]).to(device)
    found = rms_norm(x, weight, eps, backend=backend)
    exact = rms_norm_reference(x.double(), weight.double(), eps)
    assert_within_budget(found, rms_norm_reference(x, weight, eps), exact)
    by_hand = x.double() / (x.double().pow(2).mean(1, keepdim=True) + eps).sqrt() * weight.double()
    torch.testing.assert_close(exact, by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_in_16_bits(
    dtype: torch.dtype, shape: tuple[int, int], randn: Draw, assert_within_half_budget: Check
) -> None:
    device = device_of("triton")
    x, weight = randn(*shape).to(device, dtype), randn(shape[1]).to(device, dtype)
    found = rms_norm(x, weight, EPS, backend="triton")
    exact = rms_norm_reference(x.double(), weight.double(), EPS)
    assert_within_half_budget(found, rms_norm_reference(x, weight, EPS), exact)


@pytest.mark.best_isa
def test_a_row_of_zeros_stays_zero(backend: str, device: torch.device) -> None:
    x, weight = torch.zeros(2, 20, device=device), torch.ones(20, device=device)
    assert not rms_norm(x, weight, EPS, backend=backend).any()


def test_a_row_does_not_depend_on_its_batch(randn: Draw) -> None:
    x, weight = randn(700, 101), randn(101)
    whole = rms_norm(x, weight, EPS, backend="cpp")
    for start, end in [(0, 1), (350, 357), (1, 700)]:
        assert torch.equal(rms_norm(x[start:end], weight, EPS, backend="cpp"), whole[start:end])


@pytest.mark.best_isa
def test_strided_input(backend: str, device: torch.device, randn: Draw) -> None:
    x, weight = randn(4, 21).to(device), randn(42).to(device)[::2]
    expected = rms_norm_reference(x, weight, EPS)
    torch.testing.assert_close(rms_norm(x.T.contiguous().T, weight, EPS, backend=backend), expected)


# Triton's interpreter cuts float32 off to bfloat16 where a GPU rounds, so it is exact in float16 alone.
ROUNDED = [("torch", torch.bfloat16), ("torch", torch.float16), ("triton", torch.float16)]


@pytest.mark.parametrize(("name", "dtype"), ROUNDED, ids=str)
def test_16_bits_round_before_the_weight(name: str, dtype: torch.dtype, randn: Draw) -> None:
    """As the released code does: the normed row is rounded, then multiplied."""
    device = device_of(name)
    x, weight = randn(3, 64).to(device, dtype), randn(64).to(device, dtype)
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + EPS)
    assert torch.equal(rms_norm(x, weight, EPS, backend=name), weight * normed.to(dtype))


def test_wrong_arguments_are_named(randn: Draw) -> None:
    with pytest.raises(ValueError, match=r"x, weight: expected \(rows, n\) and \(n\), got \(2, 3\), \(4,\)"):
        rms_norm(randn(2, 3), randn(4), EPS)
    with pytest.raises(ValueError, match="x, weight: expected"):
        rms_norm(randn(3), randn(3), EPS)
    with pytest.raises(ValueError, match=r"weight: expected torch.float32 like x, got torch.float64"):
        rms_norm(randn(2, 3), randn(3).double(), EPS)


# --- with a residual ------------------------------------------------------------------------------


@pytest.mark.op("rms_norm_residual")
@pytest.mark.pairwise(shape=[(0, 8), (5, 33), (17, 4001)])
def test_residual_within_the_error_budget(
    backend: str, device: torch.device, shape: tuple[int, int], randn: Draw, assert_within_budget: Check
) -> None:
    x, residual = randn(*shape).to(device), randn(*shape, seed=1).to(device)
    weight = randn(shape[1]).to(device)
    kept = x.clone(), residual.clone()
    normed, total = rms_norm_residual(x, residual, weight, EPS, backend=backend)
    assert torch.equal(total, x + residual)
    in_pytorch, _ = rms_norm_residual_reference(x, residual, weight, EPS)
    exact, _ = rms_norm_residual_reference(x.double(), residual.double(), weight.double(), EPS)
    assert_within_budget(normed, in_pytorch, exact)
    assert torch.equal(x, kept[0]) and torch.equal(residual, kept[1])


@pytest.mark.parametrize(("name", "dtype"), [*ROUNDED, ("triton", torch.bfloat16)], ids=str)
@pytest.mark.parametrize("shape", [(5, 33), (17, 4001)], ids=str)
def test_residual_in_16_bits(
    name: str, dtype: torch.dtype, shape: tuple[int, int], randn: Draw, assert_within_half_budget: Check
) -> None:
    """The sum is rounded, as an addition of its own would, and the norm is that of the rounded sum."""
    numbers = randn(*shape), randn(*shape, seed=1), randn(shape[1])
    x, residual, weight = (t.to(device_of(name), dtype) for t in numbers)
    normed, total = rms_norm_residual(x, residual, weight, EPS, backend=name)
    rtol = 0.0 if (name, dtype) in ROUNDED else torch.finfo(dtype).eps
    torch.testing.assert_close(total, x + residual, rtol=rtol, atol=0)
    assert torch.equal(normed, rms_norm(total, weight, EPS, backend=name))
    exact = rms_norm_reference(total.double(), weight.double(), EPS)
    assert_within_half_budget(normed, rms_norm_reference(total, weight, EPS), exact)


@pytest.mark.op("rms_norm_residual")
@pytest.mark.best_isa
def test_residual_of_strided_input(backend: str, device: torch.device, randn: Draw) -> None:
    x, residual, weight = (t.to(device) for t in (randn(4, 21), randn(4, 50), randn(42)))
    x, residual, weight = x.T.contiguous().T, residual[:, 5:26], weight[::2]
    found = rms_norm_residual(x, residual, weight, EPS, backend=backend)
    for tensor, expected in zip(found, rms_norm_residual_reference(x, residual, weight, EPS), strict=True):
        torch.testing.assert_close(tensor, expected)


def test_wrong_arguments_with_a_residual_are_named(randn: Draw) -> None:
    x, weight = randn(2, 3), randn(3)
    with pytest.raises(ValueError, match=r"residual: expected .* \(2, 3\) like x, got .* \(1, 3\)"):
        rms_norm_residual(x, randn(1, 3), weight, EPS)
    with pytest.raises(ValueError, match=r"residual: expected torch.float32 .* got torch.float64"):
        rms_norm_residual(x, x.double(), weight, EPS)
    with pytest.raises(ValueError, match="x, weight: expected"):
        rms_norm_residual(x, x, randn(4), EPS)
    with pytest.raises(ValueError, match=r"weight: expected torch.float32 like x"):
        rms_norm_residual(x, x, weight.double(), EPS)
