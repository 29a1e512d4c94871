from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import masked_group_norm
from antiphon.kernels.masked_group_norm import masked_group_norm_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
Arguments = tuple[Tensor, Tensor, Tensor, int, float, Tensor | None]

EPS = 1e-5

# (frames of each row, channels, groups); the last ones have stretches of several programs
SHAPES = [
    ((1,), 2, 1),
    ((5, 5), 8, 8),
    ((9, 4, 1), 12, 4),
    ((3, 7), 15, 5),
    ((300, 41), 256, 8),
    ((1100,), 24, 8),
    ((2, 130), 70, 1),
]


def arguments(lengths: tuple[int, ...], channels: int, groups: int, randn: Draw) -> Arguments:
    longest = max(lengths)
    x = 3 + 5 * randn(len(lengths), channels, longest)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None].float()
    weight, bias = randn(channels), randn(channels, seed=1)
    return x, weight, bias, groups, EPS, None if min(lengths) == longest else mask


def converted(args: Arguments, dtype: torch.dtype | torch.device) -> Arguments:
    x, weight, bias, groups, eps, mask = args
    return (
        x.to(dtype),
        weight.to(dtype),
        bias.to(dtype),
        groups,
        eps,
        None if mask is None else mask.to(dtype),
    )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[tuple[int, ...], int, int],
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    args = converted(arguments(*shape, randn), device)
    found = masked_group_norm(*args, backend=backend)
    exact = masked_group_norm_reference(*converted(args, torch.float64))
    assert_within_budget(found, masked_group_norm_reference(*args), exact)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_16_bits(
    dtype: torch.dtype,
    shape: tuple[tuple[int, ...], int, int],
    randn: Draw,
    assert_within_half_budget: Check,
) -> None:
    args = converted(converted(arguments(*shape, randn), dtype), device_of("triton"))
    found = masked_group_norm(*args, backend="triton")
    exact = masked_group_norm_reference(*converted(args, torch.float64))
    assert_within_half_budget(found, masked_group_norm_reference(*args), exact)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("lengths", [(9, 4, 1), (2100, 90)], ids=str)
def test_with_what_is_added(
    backend: str,
    device: torch.device,
    lengths: tuple[int, ...],
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    """The shift on valid frames, the residual on all; x is a part of more channels that lie side by side."""
    args = converted(arguments(lengths, 24, 2, randn), device)
    both = torch.cat([args[0].mT, randn(*args[0].mT.shape, seed=1).to(device)], dim=2)
    x, residual = (part.mT for part in both.chunk(2, dim=2))
    shift = randn(24, seed=2).to(device)
    args = x, *args[1:]
    found = masked_group_norm(*args, shift=shift, residual=residual, backend=backend)
    exact = masked_group_norm_reference(
        *converted(args, torch.float64), shift=shift.double(), residual=residual.double()
    )
    assert_within_budget(found, masked_group_norm_reference(*args, shift, residual), exact)
    half = masked_group_norm(*args, shift=shift, residual=residual, out_dtype=torch.float16, backend=backend)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), found, rtol=1e-3, atol=1e-3)


def test_a_padded_row_is_what_it_is_alone(backend: str, device: torch.device, randn: Draw) -> None:
    args = converted(arguments((300, 41, 7), 16, 4, randn), device)
    x = args[0]
    found = masked_group_norm(*args, backend=backend)
    for row, length in enumerate((300, 41, 7)):
        alone = torch.nn.functional.group_norm(x[row : row + 1, :, :length], 4, args[1], args[2], EPS)
        torch.testing.assert_close(found[row : row + 1, :, :length], torch.nn.functional.mish(alone))
        assert not found[row, :, length:].any()


def test_padding_is_not_looked_at(randn: Draw) -> None:
    args = converted(arguments((90, 41), 16, 4, randn), device_of("triton"))
    expected = masked_group_norm(*args, backend="triton")
    args[0][1, :, 41:] = torch.nan
    assert torch.equal(masked_group_norm(*args, backend="triton"), expected)


def test_a_mean_far_from_zero(backend: str, device: torch.device, randn: Draw) -> None:
    """The squares of the numbers themselves would leave nothing of the variance."""
    args = converted(arguments((200, 90), 16, 4, randn), device)
    args[0].add_(3000.0)
    found = masked_group_norm(*args, backend=backend)
    exact = masked_group_norm_reference(*converted(args, torch.float64))
    torch.testing.assert_close(found, exact.float(), rtol=1e-3, atol=1e-3)


def test_mish_far_from_zero(backend: str, device: torch.device) -> None:
    """A bias that takes all numbers far to one side."""
    x = torch.zeros(1, 6, 4, device=device)
    bias = torch.tensor([-1e4, -90.0, -20.0, 19.9, 90.0, 1e30], device=device)
    found = masked_group_norm(x, torch.ones_like(bias), bias, 2, EPS, backend=backend)
    expected = torch.nn.functional.mish(bias.double()).float()[None, :, None].expand(1, 6, 4)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-30)


def test_frames_that_lie_apart(backend: str, device: torch.device, randn: Draw) -> None:
    """Channels next to each other in memory, as the packed estimator has them."""
    args = converted(arguments((30, 11), 16, 4, randn), device)
    turned = args[0].mT.contiguous().mT
    found = masked_group_norm(turned, *args[1:], backend=backend)
    torch.testing.assert_close(found, masked_group_norm(*args, backend=backend))


@pytest.mark.parametrize("shape", [(0, 8, 5), (2, 8, 0)], ids=str)
def test_nothing(shape: tuple[int, int, int], randn: Draw) -> None:
    x, weight, bias = (t.to(device_of("triton")) for t in (torch.empty(shape), randn(8), randn(8)))
    found = masked_group_norm(x, weight, bias, 4, EPS, backend="triton")
    assert found.shape == shape


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    x, weight, bias, groups, eps, mask = arguments((5, 3), 8, 4, randn)
    assert mask is not None
    for wrong in (x[0], x[:, :7]):
        with pytest.raises(
            ValueError, match=r"x: expected \(batch, channels, frames\), channels in 4 groups"
        ):
            masked_group_norm(wrong, weight, bias, groups, eps, mask, backend=backend)
    with pytest.raises(ValueError, match=r"weight: expected torch.float32 \(8,\) on cpu, got .* \(7,\)"):
        masked_group_norm(x, weight[:7], bias, groups, eps, mask, backend=backend)
    with pytest.raises(ValueError, match=r"bias: expected torch.float32 \(8,\) on cpu, got torch.float64"):
        masked_group_norm(x, weight, bias.double(), groups, eps, mask, backend=backend)
    with pytest.raises(ValueError, match=r"mask: expected torch.float32 \(2, 1, 5\) on cpu, got .* \(2, 5\)"):
        masked_group_norm(x, weight, bias, groups, eps, mask[:, 0], backend=backend)
