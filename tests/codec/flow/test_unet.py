from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.solver import schedule
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.padding import frame_mask, group_norm, pad_rows


@pytest.mark.parametrize("lengths", [(1, 2, 3), (8, 13), (20, 7, 20)])
def test_padded_rows_equal_single_rows(
    odd_flow_params: FlowParams, randomized: Callable[[nn.Module], Any], lengths: tuple[int, ...]
) -> None:
    """Odd and even lengths, down to one frame: halving and doubling keep every row's own length."""
    unet = randomized(UNet(odd_flow_params.estimator))
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(320, length, generator=generator) for length in lengths]
    time_bias = unet.time_bias(torch.tensor([0.3]))[0]
    batch = unet(pad_rows(rows), time_bias, frame_mask(lengths, torch.device("cpu")))
    for row, found in zip(rows, batch, strict=True):
        torch.testing.assert_close(found[:, : row.shape[1]], unet(row[None], time_bias)[0], rtol=0, atol=1e-5)
        assert not found[:, row.shape[1] :].any()


def test_time_bias_is_one_row_per_time(
    odd_flow_params: FlowParams, randomized: Callable[[nn.Module], Any]
) -> None:
    unet = randomized(UNet(odd_flow_params.estimator))
    times, _ = schedule()
    together = unet.time_bias(times)
    assert together.shape == (10, 24 + 40 + 40 + 24 + 24)
    torch.testing.assert_close(together[3:4], unet.time_bias(times[3:4]))


def test_group_norm_over_valid_frames() -> None:
    """Mean and biased variance of each row's own frames, as PyTorch gives them for that row."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(4, 12)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    x = 3 + 5 * torch.randn(2, 12, 9, generator=generator)
    found = group_norm(x, norm, frame_mask((9, 4), x.device))
    torch.testing.assert_close(found[0], norm(x)[0])
    torch.testing.assert_close(found[1, :, :4], norm(x[1:, :, :4])[0])


def test_no_mask_without_padding() -> None:
    assert frame_mask((5, 5), torch.device("cpu")) is None


def test_schedule_is_the_cosine_grid() -> None:
    """Times are the grid's points up to float32, and the steps add up to 1."""
    times, steps = schedule()
    grid = 1 - torch.cos(torch.linspace(0, 1, 11, dtype=torch.float64) * torch.pi / 2)
    torch.testing.assert_close(times.double(), grid[:-1], rtol=0, atol=3e-7)
    assert len(steps) == 10
    assert sum(steps) == pytest.approx(1, abs=1e-6)


def test_gelu_is_exact(odd_flow_params: FlowParams, randomized: Callable[[nn.Module], Any]) -> None:
    """The tanh approximation differs by more than the golden data allow."""
    unet = randomized(UNet(odd_flow_params.estimator))
    project = unet.mid_blocks[0][1][0].ff.net[0]
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    y = project.proj(x).double()
    torch.testing.assert_close(project(x), (y * (1 + torch.erf(y / 2**0.5)) / 2).float())
    assert not torch.allclose(project(x), F.gelu(project.proj(x), approximate="tanh"), rtol=0, atol=1e-5)
