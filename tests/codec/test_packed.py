"""Packed layers and networks compute what the plain modules do: by oneDNN where it is, and by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from antiphon.codec.checkpoint.hyperparams import FlowParams, HiftParams
from antiphon.codec.flow.packed_unet import PackedUNet, mish
from antiphon.codec.flow.unet import UNet
from antiphon.codec.hift.hift import Hift, source_spectrum
from antiphon.codec.hift.packed_trunk import PackedTrunk
from antiphon.codec.layers.packed import PackedConv, PackedLinear, has_onednn
from antiphon.codec.layers.padding import frame_mask, pad_rows
from antiphon.kernels import registry

CPU = torch.device("cpu")
Measure = Callable[[Any, Any], float]
Randomized = Callable[[nn.Module], Any]
# By PyTorch alone, as without oneDNN, and by what this machine has.
each_library = pytest.mark.parametrize("onednn", [False, None], ids=["torch", "best"])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@each_library
@pytest.mark.parametrize(("frames", "channels", "out"), [(1, 7, 5), (13, 24, 40), (200, 3, 1)])
def test_linear(onednn: bool | None, frames: int, channels: int, out: int) -> None:
    weight, bias, x = random(out, channels), random(out), random(2, frames, channels)
    expected = F.linear(x, weight, bias)
    packed = PackedLinear(weight, bias, torch.float32, onednn=onednn)
    torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
    residual = random(2, frames, out)
    torch.testing.assert_close(packed.add_to(residual.clone(), x), residual + expected, rtol=1e-5, atol=1e-5)
    unbiased = PackedLinear(weight, None, torch.float32, gelu=True, onednn=onednn)
    torch.testing.assert_close(unbiased(x), F.gelu(F.linear(x, weight)), rtol=1e-5, atol=1e-5)


@each_library
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(7, 5, 3, padding=1),
        nn.Conv1d(6, 10, 1),
        nn.Conv1d(3, 4, 11, dilation=5, padding=25),
        nn.Conv1d(8, 8, 3, stride=2, padding=1),
        nn.Conv1d(18, 4, 16, stride=8, padding=4),
        nn.ConvTranspose1d(24, 40, 4, stride=2, padding=1),
        nn.ConvTranspose1d(6, 3, 16, stride=8, padding=4),
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [9, 16, 129])
def test_conv(
    conv: nn.Conv1d | nn.ConvTranspose1d, frames: int, onednn: bool | None, randomized: Randomized
) -> None:
    randomized(conv)
    x = random(2, frames, conv.in_channels)
    expected = conv(x.mT).mT
    packed = PackedConv(conv, torch.float32, onednn=onednn)
    found = packed(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    residual = random(*expected.shape)
    torch.testing.assert_close(packed.add_to(residual.clone(), x), residual + expected, rtol=1e-5, atol=1e-5)


def test_mish() -> None:
    x = torch.cat([torch.linspace(-90, 90, 1001), torch.tensor([-1e4, 1e4, 0.0])])
    torch.testing.assert_close(mish(x.clone()), F.mish(x.double()).float(), rtol=2e-6, atol=1e-30)


@each_library
@pytest.mark.parametrize("lengths", [(1,), (2,), (13,), (24, 24), (1, 2, 3), (8, 13), (20, 7, 20)], ids=str)
def test_unet_equals_plain(
    odd_flow_params: FlowParams, randomized: Randomized, onednn: bool | None, lengths: tuple[int, ...]
) -> None:
    unet = randomized(UNet(odd_flow_params.estimator))
    x = pad_rows([random(320, length) for length in lengths])
    time_bias, mask = unet.time_bias(torch.tensor([0.3]))[0], frame_mask(lengths, CPU)
    kept = x.clone()
    found = PackedUNet(unet, torch.float32, onednn=onednn)(x, time_bias, mask)
    torch.testing.assert_close(found, unet(x, time_bias, mask), rtol=0, atol=5e-6)
    assert torch.equal(x, kept)


@each_library
@pytest.mark.parametrize("lengths", [(1,), (17,), (6, 6), (1, 2, 17)], ids=str)
@torch.inference_mode()
def test_trunk_equals_plain(
    odd_hift_params: HiftParams, randomized: Randomized, onednn: bool | None, lengths: tuple[int, ...]
) -> None:
    hift = randomized(Hift(odd_hift_params))
    mel = pad_rows([random(80, length) for length in lengths])
    spectra = pad_rows([source_spectrum(0.1 * random(256 * length)) for length in lengths])
    found = PackedTrunk(hift, torch.float32, onednn=onednn)(mel, spectra, lengths)
    plain = hift.plain_trunk(mel, spectra, lengths)
    for row, expected, length in zip(found, plain, lengths, strict=True):
        valid = slice(64 * length + 1)
        torch.testing.assert_close(row[:, valid], expected[:, valid], rtol=0, atol=5e-6)


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and activations by the kernels that a GPU has, in Triton's interpreter."""
    choose = registry.choose

    def choose_triton(op: str, device: torch.device, dtype: torch.dtype) -> str:
        return "triton" if op in ("masked_group_norm", "snake") else choose(op, device, dtype)

    monkeypatch.setattr(registry, "choose", choose_triton)


@pytest.mark.slow
@pytest.mark.usefixtures("on_triton")
@pytest.mark.parametrize("lengths", [(13,), (1, 2, 3)], ids=str)
@torch.inference_mode()
@pytest.mark.long
def test_networks_with_the_kernels_of_a_gpu(
    odd_flow_params: FlowParams,
    odd_hift_params: HiftParams,
    randomized: Randomized,
    monkeypatch: pytest.MonkeyPatch,
    lengths: tuple[int, ...],
) -> None:
    unet, hift = randomized(UNet(odd_flow_params.estimator)), randomized(Hift(odd_hift_params))
    x = pad_rows([random(320, length) for length in lengths])
    time_bias, mask = unet.time_bias(torch.tensor([0.3]))[0], frame_mask(lengths, CPU)
    mel = pad_rows([random(80, length) for length in lengths])
    spectra = pad_rows([source_spectrum(0.1 * random(256 * length)) for length in lengths])
    packed_unet, packed_trunk = (
        PackedUNet(unet, torch.float32, onednn=False),
        PackedTrunk(hift, torch.float32, onednn=False),
    )
    assert packed_unet.final_block.is_fused
    velocity, waves = packed_unet(x, time_bias, mask), packed_trunk(mel, spectra, lengths)
    monkeypatch.undo()
    torch.testing.assert_close(velocity, unet(x, time_bias, mask), rtol=0, atol=5e-6)
    for row, expected, length in zip(waves, hift.plain_trunk(mel, spectra, lengths), lengths, strict=True):
        valid = slice(64 * length + 1)
        torch.testing.assert_close(row[:, valid], expected[:, valid], rtol=0, atol=5e-6)


@each_library
@torch.inference_mode()
def test_bfloat16_networks_of_odd_shapes(
    odd_flow_params: FlowParams,
    odd_hift_params: HiftParams,
    randomized: Randomized,
    relative_error: Measure,
    onednn: bool | None,
) -> None:
    """Products carry 8 bits, so some times 2^-8 is what a network of them may lose; and a padded row loses
    it as one alone does."""
    unet, hift = randomized(UNet(odd_flow_params.estimator)), randomized(Hift(odd_hift_params))
    time_bias, lengths = unet.time_bias(torch.tensor([0.3]))[0], (8, 13)
    x = pad_rows([random(320, length) for length in lengths])
    packed = PackedUNet(unet, torch.bfloat16, onednn=onednn)
    mask = frame_mask(lengths, CPU)
    found = packed(x, time_bias, mask)
    assert 1e-4 < relative_error(found, unet(x, time_bias, mask)) < 0.02
    assert relative_error(found[:1, :, :8], packed(x[:1, :, :8], time_bias)) < 0.02
    mel, spectrum = random(1, 80, 9), source_spectrum(0.1 * random(256 * 9))[None]
    trunk = PackedTrunk(hift, torch.bfloat16, onednn=onednn)(mel, spectrum, [9])
    assert trunk.dtype == torch.float32
    assert 1e-4 < relative_error(trunk, hift.plain_trunk(mel, spectrum, [9])) < 0.02


def test_onednn_is_not_for_everything() -> None:
    assert not has_onednn(torch.device("cuda"), torch.float32)
    assert not has_onednn(CPU, torch.float64)
