"""The flow's U-Net in one call, against the modules that it is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import EstimatorParams
from antiphon.codec.flow.cpp_unet import OneCallUNet, stages_of
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.padding import frame_mask, pad_rows
from antiphon.kernels import _C
from antiphon.kernels.unet import CppUNet

Draw = Callable[..., Tensor]

CPU = torch.device("cpu")
PARAMS = [
    EstimatorParams(
        in_channels=320,
        out_channels=80,
        channels=(40, 48),  # groups of 5 and 6
        attention_head_dim=20,
        num_heads=3,
        n_blocks=2,
        num_mid_blocks=1,
    ),
    EstimatorParams(
        in_channels=320,
        out_channels=80,
        channels=(64, 64),
        attention_head_dim=64,
        num_heads=2,
        n_blocks=1,
        num_mid_blocks=0,
    ),
]
LENGTHS = [(1,), (2,), (13,), (24, 24), (1, 2, 3), (8, 13), (20, 7, 20), (33, 150, 129)]


@pytest.fixture(scope="module", params=PARAMS, ids=["odd", "even"])
def unet(request: pytest.FixtureRequest) -> UNet:
    torch.manual_seed(0)
    unet = UNet(request.param).eval().requires_grad_(False)
    for part in unet.modules():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return unet


@pytest.fixture(scope="module")
def time_bias(unet: UNet) -> Tensor:
    return unet.time_bias(torch.tensor([0.3]))[0]


def inputs(randn: Draw, lengths: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    rows = [randn(320, length, seed=seed) for seed, length in enumerate(lengths)]
    return pad_rows(rows), frame_mask(lengths, CPU)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_the_modules(
    unet: UNet, time_bias: Tensor, isa: str, randn: Draw, lengths: tuple[int, ...]
) -> None:
    x, mask = inputs(randn, lengths)
    kept = x.clone()
    exact = deepcopy(unet).double()(x.double(), time_bias.double(), None if mask is None else mask.double())
    found, plain = OneCallUNet(unet)(x, time_bias, mask), unet(x, time_bias, mask)
    assert (found - exact).abs().max() <= max(2 * (plain - exact).abs().max(), 1e-6 * exact.abs().max())
    assert torch.equal(x, kept)
    assert mask is None or not found[(mask == 0).expand_as(found)].any()


def test_a_row_depends_neither_on_its_batch_nor_on_the_number_of_threads(
    unet: UNet, time_bias: Tensor, isa: str, randn: Draw
) -> None:
    lengths = (97, 1, 60)
    x, mask = inputs(randn, lengths)
    run, alone = OneCallUNet(unet), OneCallUNet(unet, is_alone=True)
    before = _C.num_threads()
    try:
        _C.set_num_threads(3)
        found = run(x, time_bias, mask)
        assert torch.equal(alone(x, time_bias, mask), found)
        for row, length in enumerate(lengths):
            single = run(x[row : row + 1, :, :length].contiguous(), time_bias)
            assert torch.equal(single, found[row : row + 1, :, :length])
    finally:
        _C.set_num_threads(before)


def test_it_is_stopped_between_its_layers(unet: UNet, time_bias: Tensor, randn: Draw) -> None:
    class Enough(Exception):
        pass

    calls: list[int] = []

    def stop_point() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise Enough

    run = CppUNet(*stages_of(unet))
    x = randn(1, 320, 4000)  # takes a hundred milliseconds or more
    with pytest.raises(Enough):
        run(x, time_bias, [4000], stop_point=stop_point)
    assert calls == [0, 1]
    again = run(x[:, :, :50], time_bias, [50], stop_point=stop_point)
    assert torch.equal(again, run(x[:, :, :50], time_bias, [50]))


def test_weights_that_do_not_fit_are_named(unet: UNet) -> None:
    stages, block, proj, geometry = stages_of(unet)
    CppUNet(stages, block, proj, geometry)
    with pytest.raises(ValueError, match=r"stages: expected at least two down and two up, got 3"):
        CppUNet(stages[:3], block, proj, geometry)
    swapped = [stages[1], stages[0], *stages[2:]]
    with pytest.raises(ValueError, match=r"stages\[0\]: expected 320 channels in and to leave 'half', got"):
        CppUNet(swapped, block, proj, geometry)
    with pytest.raises(ValueError, match=r"stages\[0\]: \d+ channels are no 7 equal groups"):
        CppUNet(stages, block, proj, replace(geometry, num_groups=7))
    with pytest.raises(ValueError, match=r"stages\[0\]\.transformers\[0\]\.qkv\.weight: expected"):
        CppUNet(stages, block, proj, replace(geometry, num_heads=1))
    with pytest.raises(ValueError, match=r"final_proj\.weight: expected"):
        CppUNet(stages, block, proj, replace(geometry, out_channels=81))
    halves = replace(block, norm=replace(block.norm, bias=block.norm.bias.half()))
    with pytest.raises(ValueError, match=r"final_block\.norm\.bias: expected torch\.float32"):
        CppUNet(stages, halves, proj, geometry)


def test_arguments_that_do_not_fit_are_named(unet: UNet, time_bias: Tensor, randn: Draw) -> None:
    run = CppUNet(*stages_of(unet))
    x = randn(2, 320, 9)
    for lengths in ([9], [9, 0], [9, 10]):
        with pytest.raises(ValueError, match=r"lengths: expected 2 numbers of 1 to 9, got \["):
            run(x, time_bias, lengths)
    with pytest.raises(ValueError, match=r"x: expected torch\.float32 \(batch, 320, frames\)"):
        run(x.double(), time_bias, [9, 9])
    with pytest.raises(ValueError, match=r"x: expected torch\.float32 \(batch, 320, frames\)"):
        run(x[:, 1:], time_bias, [9, 9])
    with pytest.raises(ValueError, match=r"time_bias: expected torch\.float32 \(\d+,\)"):
        run(x, time_bias[1:], [9, 9])
