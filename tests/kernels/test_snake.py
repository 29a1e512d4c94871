from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import snake
from antiphon.kernels.snake import SNAKE_EPS, snake_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]

SHAPES = [(1, 1, 1), (0, 3, 5), (2, 3, 0), (2, 7, 33), (3, 5, 1100)]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[int, int, int],
    scale: float,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    x, alpha = (randn(*shape) * scale).to(device), (randn(shape[1]).abs() + 0.1).to(device)
    found = snake(x, alpha, backend=backend)
    assert_within_budget(found, snake_reference(x, alpha), snake_reference(x.double(), alpha.double()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_16_bits(
    dtype: torch.dtype, shape: tuple[int, int, int], randn: Draw, assert_within_half_budget: Check
) -> None:
    device = device_of("triton")
    x, alpha = randn(*shape).to(device, dtype), (randn(shape[1]).abs() + 0.1).to(device, dtype)
    found = snake(x, alpha, backend="triton")
    assert_within_half_budget(found, snake_reference(x, alpha), snake_reference(x.double(), alpha.double()))


def test_what_it_means(backend: str, device: torch.device) -> None:
    x = torch.tensor([[[0.0, 1.0, -2.0], [0.0, 0.5, -0.5]]], device=device)
    alpha = torch.tensor([0.5, 0.0], device=device)  # where alpha is 0, nothing is added
    found = snake(x, alpha, backend=backend)
    first = x[0, 0] + torch.sin(0.5 * x[0, 0]) ** 2 / (0.5 + SNAKE_EPS)
    torch.testing.assert_close(found, torch.stack([first, x[0, 1]])[None])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 130, 9), (2, 1, 7), (1, 3, 1)], ids=str)
def test_channels_side_by_side(
    backend: str, device: torch.device, shape: tuple[int, int, int], randn: Draw
) -> None:
    """The layout comes out as it went in."""
    x, alpha = randn(*shape).to(device), randn(2 * shape[1]).abs().to(device)[::2] + 0.1
    expected = snake_reference(x, alpha.contiguous())
    found = snake(x.mT.contiguous().mT, alpha, backend=backend)
    torch.testing.assert_close(found, expected)
    assert found.mT.is_contiguous()


@pytest.mark.usefixtures("poisoned_memory")
def test_a_view_with_gaps(backend: str, device: torch.device, randn: Draw) -> None:
    x, alpha = randn(3, 10, 40).to(device)[:, ::2, 3:30], randn(5).abs().to(device) + 0.1
    torch.testing.assert_close(snake(x, alpha, backend=backend), snake_reference(x.contiguous(), alpha))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_result_is_rounded_once(
    backend: str, device: torch.device, dtype: torch.dtype, randn: Draw
) -> None:
    x, alpha = randn(2, 5, 40).to(device), (randn(5).abs() + 0.1).to(device)
    found = snake(x, alpha, out_dtype=dtype, backend=backend)
    assert found.dtype == dtype
    exact = snake_reference(x.double(), alpha.double())
    assert ((found - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("is_last", [False, True], ids=["frames", "channels side by side"])
def test_padding_comes_out_as_zero(
    backend: str, device: torch.device, dtype: torch.dtype, is_last: bool, randn: Draw
) -> None:
    """In 16 bits with alpha in float32: its phase is as precise as the input."""
    x, alpha = randn(2, 5, 300).to(device, dtype), (randn(5).abs() + 0.1).to(device)
    mask = torch.ones(2, 1, 300, device=device)
    mask[1, :, 77:] = 0
    laid = x.mT.contiguous().mT if is_last else x
    found = snake(laid, alpha, mask, backend=backend)
    assert found.dtype == dtype
    expected = snake_reference(x.double(), alpha.double()) * mask
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert not found[1, :, 77:].any()


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(batch, channels, frames\), got \(3, 4\)"):
        snake(randn(3, 4), randn(3), backend=backend)
    with pytest.raises(ValueError, match=r"alpha: expected torch.float32 \(3,\) on cpu, got .* \(4,\)"):
        snake(randn(1, 3, 4), randn(4), backend=backend)
    with pytest.raises(ValueError, match=r"alpha: expected torch.float32 \(3,\) on cpu, got torch.float64"):
        snake(randn(1, 3, 4), randn(3).double(), backend=backend)
    with pytest.raises(ValueError, match=r"mask: expected contiguous torch.float32 \(1, 1, 4\) on cpu"):
        snake(randn(1, 3, 4), randn(3), randn(1, 4), backend=backend)
