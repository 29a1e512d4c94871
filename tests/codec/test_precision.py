"""A codec in bfloat16 beside the golden one in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_fixtures import flow_input
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.voices import Voice
from antiphon.device.dtypes import usual_codec_dtype

FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")


BOUNDS = {"bfloat16": (0.1, 0.01, 30.0), "float16": (0.02, 0.002, 45.0)}
"""What `Codec` states: the log-mel's largest and mean error, the waveform's signal to error in dB."""


@pytest.fixture(scope="module", params=BOUNDS)
def precision(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def half(folder: Path, precision: str) -> Codec:
    return Codec.from_pretrained(folder, device="cpu", dtype=precision)


def snr_db(found: Any, expected: Any) -> float:
    """Signal to error."""
    error = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
    return float(10 * np.log10((np.asarray(expected, np.float64) ** 2).sum() / (error**2).sum()))


def test_what_auto_is() -> None:
    assert usual_codec_dtype(torch.device("cpu")) == torch.float32
    assert usual_codec_dtype(torch.device("cuda")) == torch.float16


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype(folder: Path, codec: Codec, dtype: Any) -> None:
    assert codec.dtype == torch.float32
    assert Codec.from_pretrained(folder, device="cpu", dtype=dtype).dtype == torch.bfloat16


@pytest.mark.parametrize("name", FULL)
def test_log_mel(
    half: Codec, precision: str, golden: dict[str, Tensor], cases: dict[str, dict[str, Any]], name: str
) -> None:
    largest, mean, _ = BOUNDS[precision]
    mel = half.mel(cases[name]["units"], cases[name]["speaker"], noise=golden[f"{name}.noise"][0])
    assert mel.dtype == np.float32
    difference = np.abs(mel - golden[f"{name}.mel"][0].numpy())
    assert difference.max() < largest
    assert difference.mean() < mean


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_waveform(
    half: Codec, precision: str, golden: dict[str, Tensor], cases: dict[str, dict[str, Any]], name: str
) -> None:
    """Flow and vocoder in bfloat16, the golden source."""
    mel = half.mel(cases[name]["units"], cases[name]["speaker"], noise=golden[f"{name}.noise"][0])
    samples = half.vocode(mel, source=golden[f"{name}.source"][0, 0])
    assert snr_db(samples, golden[f"{name}.wav"][0]) > BOUNDS[precision][2]


@torch.inference_mode()
def test_pitch_and_noise_do_not_depend_on_it(codec: Codec, half: Codec, golden: dict[str, Tensor]) -> None:
    mel = golden["full_90.mel"][0]
    assert torch.equal(half.decoder.hift.f0([mel])[0], codec.decoder.hift.f0([mel])[0])
    assert torch.equal(flow_input(half, [1, 2], seed=3).noise, flow_input(codec, [1, 2], seed=3).noise)


@pytest.mark.long
@pytest.mark.slow
def test_batch_is_within_the_bounds_of_each_alone(
    half: Codec, precision: str, full_units: list[list[int]]
) -> None:
    largest, mean, _ = BOUNDS[precision]
    rows = [flow_input(half, units, seed=k) for k, units in enumerate(full_units)]
    for row, mel in zip(rows, half.decoder.flow.generate(rows), strict=True):
        difference = (mel - half.decoder.flow.generate([row])[0]).abs()
        assert difference.max() < largest
        assert difference.mean() < mean


def test_decode_is_vocode_of_mel(half: Codec) -> None:
    (speech,) = half.decode([[1, 2, 3]], seeds=[5])
    assert np.array_equal(speech, half.vocode(half.mel([1, 2, 3], seed=5), seed=5))


@pytest.mark.long
@pytest.mark.slow
def test_decode_of_many_shares_batches(half: Codec, full_units: list[list[int]]) -> None:
    assert half.max_batch_frames == 1024
    together = half.decode(full_units)
    assert [len(speech) for speech in together] == [
        256 * half.params.flow.mel_frames(len(units)) for units in full_units
    ]
    assert all(np.isfinite(speech).all() and speech.std() > 0 for speech in together)


def test_packing_leaves_the_weights_alone(folder: Path) -> None:
    """A codec in another precision can be made of the parts of one."""
    codec = Codec.from_pretrained(folder, device="cpu")
    before = {name: value.clone() for name, value in codec.decoder.flow.model.state_dict().items()}
    mel, voices = codec.mel([1, 2, 3]), {"v": Voice(torch.ones(192))}
    Codec(
        codec.params, codec.decoder.flow.model, codec.decoder.hift, voices, codec.device, dtype=torch.bfloat16
    )
    for name, value in codec.decoder.flow.model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])
    assert np.array_equal(codec.mel([1, 2, 3]), mel)
