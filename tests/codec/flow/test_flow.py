from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from codec_fixtures import flow_input
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.flow import Flow, FlowInput, FlowModel

Measure = Callable[[Any, Any], float]
Cases = dict[str, dict[str, Any]]
FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")


@pytest.mark.parametrize("name", FULL)
def test_condition_is_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure, name: str
) -> None:
    row = flow_input(codec, cases[name]["units"], cases[name]["speaker"])
    assert relative_error(codec.decoder.flow.condition([row]).mu, golden[f"{name}.mu"]) < 1e-5


@pytest.mark.parametrize("name", FULL)
def test_mel_is_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure, name: str
) -> None:
    mel = codec.mel(cases[name]["units"], cases[name]["speaker"], noise=golden[f"{name}.noise"][0])
    assert relative_error(mel, golden[f"{name}.mel"][0]) < 1e-5


def test_prompted_mel_is_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure
) -> None:
    case = cases["prompted"]
    row = flow_input(
        codec,
        case["units"],
        case["speaker"],
        noise=golden["prompted.noise"][0],
        prompt_units=case["prompt_units"],
        prompt_mel=golden["prompted.prompt_mel"],
    )
    assert relative_error(codec.decoder.flow.generate([row])[0], golden["prompted.mel"][0]) < 1e-5
    # The released code carries on the noise and condition of the prompt and of the last 34 frames.
    mu = codec.decoder.flow.condition([row]).mu[0]
    carried = torch.cat([mu[:, : row.prompt_frames], mu[:, -34:]], dim=1)
    assert relative_error(carried, golden["prompted.flow_cache"][0, ..., 1]) < 1e-5


def test_input_is_left_as_it_was(codec: Codec) -> None:
    row = flow_input(codec, [5] * 20)
    noise = row.noise.clone()
    codec.decoder.flow.generate([row])
    assert torch.equal(row.noise, noise)


@pytest.mark.slow
def test_ragged_batch_equals_one_by_one(codec: Codec, cases: Cases, relative_error: Measure) -> None:
    """Lengths of 1 to 137 units, with and without a prompt, in one batch."""
    generator = torch.Generator().manual_seed(0)
    rows = [flow_input(codec, cases[name]["units"], seed=k) for k, name in enumerate(FULL)]
    rows.append(
        flow_input(
            codec,
            cases["prompted"]["units"],
            "中文男",
            prompt_units=cases["prompted"]["prompt_units"],
            prompt_mel=torch.randn(80, 86, generator=generator),
        )
    )
    for row, mel in zip(rows, codec.decoder.flow.generate(rows), strict=True):
        assert relative_error(mel, codec.decoder.flow.generate([row])[0]) < 1e-5


@pytest.mark.slow
def test_ragged_batch_of_another_shape(
    odd_flow_params: FlowParams, randomized: Callable[[nn.Module], Any], relative_error: Measure
) -> None:
    flow = Flow(randomized(FlowModel(odd_flow_params)), odd_flow_params, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)

    def row(n: int) -> FlowInput:
        return FlowInput(
            units=torch.randint(0, odd_flow_params.vocab_size, (n,), generator=generator),
            embedding=torch.randn(odd_flow_params.spk_embed_dim, generator=generator),
            noise=torch.randn(80, odd_flow_params.mel_frames(n), generator=generator),
        )

    rows = [row(n) for n in (1, 2, 39, 40, 41, 77)]
    for single, mel in zip(rows, flow.generate(rows), strict=True):
        assert relative_error(mel, flow.generate([single])[0]) < 1e-5


def test_padding_is_not_what_makes_the_batch_agree(codec: Codec, relative_error: Measure) -> None:
    """The comparison above can fail: without the mask the short row is wrong."""
    rows = [flow_input(codec, [3] * 5), flow_input(codec, [4] * 30)]
    condition = codec.decoder.flow.condition(rows)
    assert condition.mask is not None
    noise = torch.zeros_like(condition.mu)
    noise[0, :, :17] = rows[0].noise
    noise[1] = rows[1].noise
    args = (noise, condition.mu, condition.speaker, condition.prompt)
    unmasked = codec.decoder.flow.matching.integrate(*args, None)[0, :, :17]
    (alone,) = codec.decoder.flow.generate(rows[:1])
    assert relative_error(unmasked, alone) > 1e-3


@pytest.mark.parametrize(
    ("units", "frames"), [(1, 3), (3, 10), (20, 68), (137, 472), (4479, 15431), (4480, 15434)]
)
def test_mel_frames(codec: Codec, units: int, frames: int) -> None:
    """At 4480 units the float formula, which the checkpoint was trained with, and the integer one part."""
    assert codec.params.flow.mel_frames(units) == frames
