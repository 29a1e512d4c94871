from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.kernels import masked_conv
from antiphon.kernels.masked_conv import masked_conv_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]


def arguments(
    lengths: tuple[int, ...], taps: int, channels: tuple[int, int], randn: Draw
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = randn(len(lengths), max(lengths), channels[0])
    weight = randn(taps, channels[1], channels[0]) / channels[0] ** 0.5
    return x, weight, randn(channels[1]), torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(
    lengths=[(1,), (5, 2, 0), (33, 70)],
    channels=[(7, 5), (32, 16), (70, 66)],
    taps=[1, 3, 5],
    stride=[1, 2],
    mask_output=[False, True],
)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    lengths: tuple[int, ...],
    channels: tuple[int, int],
    taps: int,
    stride: int,
    mask_output: bool,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    x, weight, bias, counts = (part.to(device) for part in arguments(lengths, taps, channels, randn))
    options = stride, mask_output
    found = masked_conv(x, weight, bias, counts, stride=stride, mask_output=mask_output, backend=backend)
    exact = masked_conv_reference(x.double(), weight.double(), bias.double(), counts, *options)
    assert_within_budget(found, masked_conv_reference(x, weight, bias, counts, *options), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits(dtype: torch.dtype, randn: Draw) -> None:
    """Factors are rounded, and nothing else is."""
    x, weight, bias, counts = arguments((33, 20), 3, (40, 24), randn)
    x = x.to(dtype)  # Triton's interpreter cuts off what a GPU rounds
    found = masked_conv(x, weight.to(dtype), bias, counts, backend="triton")
    exact = masked_conv_reference(x.double(), weight.to(dtype).double(), bias.double(), counts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_row_is_convolved_as_it_is_alone(backend: str, device: torch.device, randn: Draw) -> None:
    """Whatever lies on the padding, and however the frames lie in memory."""
    x, weight, bias, counts = (part.to(device) for part in arguments((20, 9), 3, (12, 8), randn))
    x[1, 9:] = torch.nan
    found = masked_conv(x.mT.contiguous().mT, weight, bias, counts, stride=2, backend=backend)
    for row, length in enumerate((20, 9)):
        alone = F.conv1d(x[row, :length].mT, weight.permute(1, 2, 0), bias, stride=2, padding=1).mT
        torch.testing.assert_close(found[row, : len(alone)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)], ids=str)
def test_nothing(backend: str, device: torch.device, shape: tuple[int, int, int], randn: Draw) -> None:
    weight = randn(3, 6, 8).to(device)
    found = masked_conv(torch.empty(shape, device=device), weight, weight[0, :, 0], backend=backend)
    assert found.shape == (*shape[:2], 6)


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    x, weight, bias, counts = arguments((5, 3), 3, (8, 4), randn)
    with pytest.raises(ValueError, match=r"x: expected torch.float32 \(rows, frames, 8\) on cpu, got"):
        masked_conv(x[..., :7], weight, bias, counts, backend=backend)
    with pytest.raises(ValueError, match="weight: expected an odd number of taps, got"):
        masked_conv(x, weight[:2], bias, counts, backend=backend)
    with pytest.raises(ValueError, match=r"bias: expected torch.float32 \(4,\) on cpu, got .* \(3,\)"):
        masked_conv(x, weight, bias[:3], counts, backend=backend)
    with pytest.raises(ValueError, match="lengths: expected numbers from 0 to 5, got 3 to 6"):
        masked_conv(x, weight, bias, torch.tensor([6, 3], dtype=torch.int32), backend=backend)
    with pytest.raises(ValueError, match="mask_output: expected a bool, got 1"):
        masked_conv(x, weight, bias, counts, mask_output=1, backend=backend)  # type: ignore[arg-type]
