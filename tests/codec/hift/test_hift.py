from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import HiftParams
from antiphon.codec.hift.hift import Hift, Snake

Measure = Callable[[Any, Any], float]
FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")


@pytest.mark.parametrize("name", FULL)
def test_f0_is_golden(codec: Codec, golden: dict[str, Tensor], relative_error: Measure, name: str) -> None:
    with torch.inference_mode():
        (f0,) = codec.decoder.hift.f0([golden[f"{name}.mel"][0]])
    assert relative_error(f0, golden[f"{name}.f0"][0]) < 1e-5


@pytest.mark.parametrize("name", FULL)
def test_waveform_is_golden(
    codec: Codec, golden: dict[str, Tensor], relative_error: Measure, name: str
) -> None:
    samples = codec.vocode(golden[f"{name}.mel"][0], source=golden[f"{name}.source"][0, 0])
    assert relative_error(samples, golden[f"{name}.wav"][0]) < 5e-5


@pytest.mark.slow
@torch.inference_mode()
def test_ragged_batch_equals_one_by_one(codec: Codec, golden: dict[str, Tensor]) -> None:
    mels = [golden[f"{name}.mel"][0] for name in FULL]
    sources = [golden[f"{name}.source"][0, 0] for name in FULL]
    f0s, speech = codec.decoder.hift.f0(mels), codec.decoder.hift(mels, sources)
    for mel, source, f0, samples in zip(mels, sources, f0s, speech, strict=True):
        torch.testing.assert_close(f0, codec.decoder.hift.f0([mel])[0], rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(samples, codec.decoder.hift([mel], [source])[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_ragged_batch_of_another_shape(
    odd_hift_params: HiftParams, randomized: Callable[[nn.Module], Any]
) -> None:
    hift = randomized(Hift(odd_hift_params))
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 2, 17)
    mels = [torch.randn(80, length, generator=generator) for length in lengths]
    sources = [0.1 * torch.randn(256 * length, generator=generator) for length in lengths]
    for mel, source, samples in zip(mels, sources, hift(mels, sources), strict=True):
        assert samples.abs().max() <= odd_hift_params.audio_limit
        torch.testing.assert_close(samples, hift([mel], [source])[0], rtol=0, atol=1e-5)


def test_samples_depend_on_thirteen_frames_to_either_side(codec: Codec, golden: dict[str, Tensor]) -> None:
    """Streaming stands on this: a stretch decoded with 14 more frames on each side is the whole's."""
    mel, source = golden["full_90.mel"][0], golden["full_90.source"][0, 0]
    whole = codec.vocode(mel, source=source)
    begin, end, extra = 100, 150, 14
    part = codec.vocode(
        mel[:, begin - extra : end + extra], source=source[256 * (begin - extra) : 256 * (end + extra)]
    )
    inner = part[256 * extra : -256 * extra]
    assert abs(inner - whole[256 * begin : 256 * end]).max() < 1e-5


def test_snake() -> None:
    snake = Snake(2)
    snake.alpha.data = torch.tensor([0.5, 3.0])
    x = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(0))
    alpha = snake.alpha[:, None]
    torch.testing.assert_close(snake(x), x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9))
    assert not snake(torch.zeros(1, 2, 3)).any()
