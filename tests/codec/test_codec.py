from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_fixtures import flow_input

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.codec.voices import Voice
from antiphon.device.place import exact_float32
from antiphon.errors import ConfigError, InvalidRequest
from antiphon.kernels.threads import openmp_threads


def test_what_an_engine_asks(codec: Codec) -> None:
    assert (codec.sample_rate_hz, codec.unit_rate_hz, codec.num_units_vocab) == (22050, 25, 64)


def test_decode_is_vocode_of_mel(codec: Codec) -> None:
    (speech,) = codec.decode([[1, 2, 3]], ["中文男"], [5])
    mel = codec.mel([1, 2, 3], "中文男", seed=5)
    assert (mel.shape, mel.dtype.name, speech.dtype.name) == ((80, 10), "float32", "float32")
    assert np.array_equal(speech, codec.vocode(mel, seed=5))
    assert speech.shape == (2560,)
    assert abs(speech).max() <= 0.99


@pytest.mark.slow
def test_decode_of_many_is_decode_of_each(codec: Codec, full_units: list[list[int]]) -> None:
    voices = ["英文女", "中文男", None, "中文男", None, None, "英文女"]
    seeds = list(range(7))
    together = codec.decode(full_units, voices, seeds)
    for units, voice, seed, speech in zip(full_units, voices, seeds, together, strict=True):
        assert np.array_equal(speech, codec.decode([units], [voice], [seed])[0])


@pytest.mark.slow
def test_decode_in_padded_batches(codec: Codec, full_units: list[list[int]]) -> None:
    """As a GPU would group them. The mels agree to 1e-6; the source's phase, a sum over the pitch, magnifies
    that to some 1e-4 of the waveform within these 5 s."""
    batched = Codec(
        codec.params,
        codec.decoder.flow.model,
        codec.decoder.hift,
        {"v": Voice(torch.ones(192))},
        codec.device,
        max_batch_frames=4096,
    )
    together = batched.decode(full_units, seeds=range(7))
    batched.max_batch_frames = 0
    for speech, alone in zip(together, batched.decode(full_units, seeds=range(7)), strict=True):
        np.testing.assert_allclose(speech, alone, rtol=0, atol=3e-3)


def test_nothing_to_decode(codec: Codec) -> None:
    assert codec.decode([]) == []


def test_longer_utterance_starts_with_the_same_noise(codec: Codec) -> None:
    short, long = flow_input(codec, [1] * 10, seed=3), flow_input(codec, [1] * 50, seed=3)
    assert torch.equal(long.noise[:, : short.noise.shape[1]], short.noise)
    prompted = flow_input(
        codec, [1] * 10, seed=3, prompt_units=[2, 3], prompt_mel=np.zeros((80, 9), np.float32)
    )
    assert torch.equal(prompted.noise[:, 9:], short.noise)


def test_seed_decides(codec: Codec) -> None:
    first, again, other = codec.decode([[1, 2]] * 3, seeds=[1, 1, 2])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_voice_matters(codec: Codec) -> None:
    assert not np.array_equal(codec.mel([1, 2], "中文男"), codec.mel([1, 2]))


def test_global_random_state_is_left_alone(codec: Codec) -> None:
    before = torch.get_rng_state()
    codec.decode([[1, 2, 3]])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "units", [np.array([1, 2]), torch.tensor([1, 2]), (1, 2), range(1, 3), np.array([1, 2], np.uint8)]
)
def test_units_in_every_form(codec: Codec, units: Any) -> None:
    assert np.array_equal(codec.mel(units), codec.mel([1, 2]))


def test_prompt_mel_in_every_form(codec: Codec) -> None:
    mel = np.random.default_rng(0).normal(size=(80, 9)).astype(np.float32)
    forms = (mel, mel.T, mel.T[None], torch.from_numpy(mel))
    first, *rest = [codec.mel([1, 2], prompt_units=[3], prompt_mel=form) for form in forms]
    assert first.shape == (80, 6)
    assert all(np.array_equal(first, other) for other in rest)


@pytest.mark.parametrize(
    ("units", "options", "message"),
    [
        ([], {}, "units: expected a non-empty list of integers"),
        ([64], {}, "units: expected numbers 0 to 63, got 64 to 64"),
        ([3, -1], {}, "got -1 to 3"),
        ([1.5], {}, "of float64"),
        ([True], {}, "of bool"),
        ([[1, 2]], {}, r"got shape \(1, 2\)"),
        (5, {}, r"got shape \(\)"),
        ([[1], [1, 2]], {}, "units: expected an array, got list"),
        ("12", {}, "units: expected a non-empty list"),
        (None, {}, "units: expected"),
        ([10**30], {}, "of object"),
        ([1], {"voice": "nobody"}, "voice: expected one of 英文女, 中文男, got 'nobody'"),
        ([1], {"voice": ["英文女"]}, "voice: expected one of"),
        ([1], {"seed": 1.5}, "seed: expected an integer"),
        ([1], {"noise": np.zeros((80, 4), np.float32)}, r"noise: .*shape \(80, 3\), got float32 \(80, 4\)"),
        ([1], {"noise": np.zeros((80, 3), np.int32)}, "noise: expected floating point"),
        ([1], {"noise": np.full((80, 3), np.nan)}, "noise: expected finite"),
        ([1], {"prompt_units": [1]}, "both prompt_units and prompt_mel, or neither"),
        ([1], {"prompt_mel": np.zeros((80, 3))}, "both prompt_units and prompt_mel, or neither"),
        ([1], {"prompt_units": [], "prompt_mel": np.zeros((80, 3))}, "prompt_units: expected a non-empty"),
        ([1], {"prompt_units": [64], "prompt_mel": np.zeros((80, 3))}, "prompt_units: expected numbers"),
        ([1], {"prompt_units": [1], "prompt_mel": np.zeros((80, 0))}, "prompt_mel: expected"),
        (
            [1],
            {"prompt_units": [1], "prompt_mel": np.zeros((79, 3))},
            r"shape \(80, frames\), got .*\(79, 3\)",
        ),
    ],
)
def test_bad_units_are_refused(codec: Codec, units: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        codec.mel(units, **options)


@pytest.mark.parametrize(
    ("mel", "source", "message"),
    [
        (np.zeros((79, 5)), None, r"mel: .*\(80, frames\), got float64 \(79, 5\)"),
        (np.zeros((1, 80, 5)), None, "mel: expected"),
        (np.zeros((80, 0)), None, "mel: expected"),
        (np.zeros((80, 5), np.int64), None, "mel: expected floating point"),
        (np.full((80, 5), np.inf), None, "mel: expected finite"),
        (np.zeros((80, 5)), np.zeros(1279), r"source: .*\(1280\), got float64 \(1279,\)"),
        (np.zeros((80, 5)), np.zeros((1, 1280)), "source: expected"),
        (np.zeros((80, 5)), np.full(1280, np.nan), "source: expected finite"),
    ],
)
def test_bad_mel_and_source_are_refused(codec: Codec, mel: Any, source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        codec.vocode(mel, source=source)


def test_bad_lists_are_refused(codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match="voices: expected 2, one for each utterance, got 1"):
        codec.decode([[1], [2]], ["英文女"])
    with pytest.raises(InvalidRequest, match="seeds: expected 2, one for each utterance, got 3"):
        codec.decode([[1], [2]], seeds=[1, 2, 3])
    with pytest.raises(InvalidRequest, match="seeds: expected an integer"):
        codec.decode([[1]], seeds=[None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "tensorrt"},
            "backend: expected 'torch', 'onnxruntime:FOLDER' or 'tensorrt:FOLDER', got",
        ),
        ({"dtype": "float64"}, "dtype: expected one of auto, float32, bfloat16, float16, got float64"),
        ({"dtype": torch.int8}, "dtype: expected one of auto, float32, bfloat16, float16, got torch.int8"),
        ({"device": "toaster"}, "device: expected auto, cpu or cuda, got 'toaster'"),
        ({"device": "meta"}, "device: expected a device of this machine"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Codec.from_pretrained(folder, **options)


def test_precision_of_a_gpu_is_raised_and_restored() -> None:
    """The settings can be read and written without a GPU."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]

    def precisions() -> list[str]:
        return [str(place.fp32_precision) for place in places]

    def fail_inside() -> None:
        with exact_float32(torch.device("cuda")):
            assert precisions() == ["ieee", "ieee"]
            raise RuntimeError("stop")

    before = precisions()
    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert precisions() == before
    with exact_float32(torch.device("cpu")):
        assert precisions() == before


@pytest.mark.parametrize("dtype", ["auto", "float32", torch.float32])
def test_float32_in_every_spelling(folder: Path, dtype: Any) -> None:
    assert Codec.from_pretrained(str(folder), device=torch.device("cpu"), dtype=dtype).voices


@pytest.mark.slow
@pytest.mark.long
def test_a_small_codec_gives_the_same_bits_whatever_the_number_of_threads() -> None:
    codec = Codec.from_pretrained(EMBEDDED_CODEC, device="cpu")
    units = np.random.default_rng(0).integers(0, codec.num_units_vocab, 60)
    waves = []
    for count in (1, 3):
        with openmp_threads(count):
            waves.append((codec.decode([units])[0], codec.stream().push(units, final=True)))
    for one, other in zip(*waves, strict=True):
        assert np.array_equal(one, other)
