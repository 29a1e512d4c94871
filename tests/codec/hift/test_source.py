from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.hift.source import Draws, draw, harmonics

FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")
CPU = torch.device("cpu")


def reference_draws(seed: int, waves: int, frames: int) -> Draws:
    """What the released code draws: phases, then the noise, wave by wave."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.empty(1, waves, 1).uniform_(-math.pi, math.pi, generator=generator)
    phase[:, 0] = 0
    noise = torch.randn(1, waves, 256 * frames, generator=generator)
    return Draws(phase[0, :, 0], noise[0].T)


@pytest.mark.parametrize(("case", "name"), list(enumerate(FULL)))
@torch.inference_mode()
def test_source_is_golden(codec: Codec, golden: dict[str, Tensor], case: int, name: str) -> None:
    """With the released draws and float32 phases to rounding; float64 phases stay close."""
    f0, expected = golden[f"{name}.f0"][0], golden[f"{name}.source"][0, 0]
    params = codec.params.hift
    draws = reference_draws(case, params.num_waves, f0.shape[0])
    same = codec.decoder.hift.mix(harmonics(f0, draws, params, phase_dtype=torch.float32)[0])
    torch.testing.assert_close(same, expected, rtol=0, atol=2e-7)
    exact = codec.decoder.hift.mix(harmonics(f0, draws, params)[0])
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-3)


def test_chunks_equal_the_whole(codec: Codec) -> None:
    """Phases are carried and the noise belongs to the frame, so a border leaves no trace."""
    params, border, frames = codec.params.hift, 37, 200
    f0 = 100 + 80 * torch.rand(frames, generator=torch.Generator().manual_seed(0))
    f0[20:50] = 0
    whole, end = harmonics(f0, draw(params, 7, 0, frames, CPU), params)
    first, arrived = harmonics(f0[:border], draw(params, 7, 0, border, CPU), params)
    second, last = harmonics(f0[border:], draw(params, 7, border, frames - border, CPU), params, arrived)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-7)
    torch.testing.assert_close(last, end, rtol=0, atol=1e-9)


def test_waves_are_the_formula(codec: Codec) -> None:
    """A steady voiced tone: each wave is a sine at a multiple of f0 with small noise on top."""
    params, f0 = codec.params.hift, torch.full((4,), 200.0)
    silent = Draws(torch.linspace(0, 1, params.num_waves), torch.zeros(1024, params.num_waves))
    waves, _ = harmonics(f0, silent, params)
    samples = torch.arange(1, 1025, dtype=torch.float64)[:, None]
    order = torch.arange(1, params.num_waves + 1, dtype=torch.float64)
    cycles = 200 * order / 22050 * samples
    expected = 0.1 * torch.sin(2 * math.pi * (cycles % 1) + silent.phase)
    torch.testing.assert_close(waves.double(), expected, rtol=0, atol=1e-6)


def test_unvoiced_frames_are_noise(codec: Codec) -> None:
    params = codec.params.hift
    draws = draw(params, 0, 0, 3, CPU)
    waves, _ = harmonics(torch.tensor([10.0, 0.0, 10.1]), draws, params)
    torch.testing.assert_close(waves[:512], 0.1 / 3 * draws.noise[:512])
    assert (waves[512:] - 0.003 * draws.noise[512:]).abs().max() > 0.05


def test_draws(codec: Codec) -> None:
    draws = draw(codec.params.hift, 3, 0, 50, CPU)
    assert draws.phase[0] == 0
    assert draws.phase.abs().max() <= math.pi
    assert not torch.equal(draws.phase, draw(codec.params.hift, 4, 0, 50, CPU).phase)
    assert not torch.equal(draws.noise[:256], draws.noise[256:512])
