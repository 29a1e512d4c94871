from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.flow import Flow, FlowInput, FlowModel
from antiphon.errors import InvalidRequest

Measure = Callable[[Any, Any], float]
Cases = dict[str, dict[str, Any]]
FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")


@pytest.mark.parametrize("name", FULL)
def test_condition_is_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure, name: str
) -> None:
    row = codec.flow_input(cases[name]["units"], cases[name]["speaker"])
    assert relative_error(codec.flow.condition([row]).mu, golden[f"{name}.mu"]) < 1e-5


@pytest.mark.parametrize("name", FULL)
def test_mel_is_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure, name: str
) -> None:
    mel = codec.mel(cases[name]["units"], cases[name]["speaker"], noise=golden[f"{name}.noise"][0])
    assert relative_error(mel, golden[f"{name}.mel"][0]) < 1e-5


def test_prompted_mel_and_cache_are_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure
) -> None:
    case = cases["prompted"]
    row = codec.flow_input(
        case["units"],
        case["speaker"],
        noise=golden["prompted.noise"][0],
        prompt_units=case["prompt_units"],
        prompt_mel=golden["prompted.prompt_mel"],
    )
    (output,) = codec.flow.generate([row])
    assert relative_error(output.mel, golden["prompted.mel"][0]) < 1e-5
    assert relative_error(output.cache, golden["prompted.flow_cache"][0]) < 1e-5


def test_chunks_with_carried_cache_are_golden(
    codec: Codec, golden: dict[str, Tensor], cases: Cases, relative_error: Measure
) -> None:
    case, cache = cases["chunked"], None
    for k, (begin, end) in enumerate(case["chunks"]):
        noise = golden[f"chunked.{k}.noise"][0]
        row = codec.flow_input(case["units"][begin:end], case["speaker"], noise=noise, cache=cache)
        (output,) = codec.flow.generate([row])
        assert relative_error(output.mel, golden[f"chunked.{k}.mel"][0]) < 1e-5
        assert relative_error(output.cache, golden[f"chunked.{k}.flow_cache"][0]) < 1e-5
        cache = output.cache


def test_cache_of_a_short_utterance_holds_what_there_is(codec: Codec) -> None:
    row = codec.flow_input([1, 2, 3])
    (output,) = codec.flow.generate([row])
    assert output.cache.shape == (80, 10, 2)
    assert torch.equal(output.cache[..., 0], row.noise)


def test_cache_longer_than_the_utterance_is_refused(codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match="at most the 10 frames decoded, got 34"):
        codec.flow.generate([codec.flow_input([1, 2, 3], cache=torch.zeros(80, 34, 2))])


def test_input_is_left_as_it_was(codec: Codec) -> None:
    row = codec.flow_input([5] * 20, cache=torch.ones(80, 34, 2))
    noise = row.noise.clone()
    codec.flow.generate([row])
    assert torch.equal(row.noise, noise)


@pytest.mark.slow
def test_ragged_batch_equals_one_by_one(codec: Codec, cases: Cases, relative_error: Measure) -> None:
    """Lengths of 1 to 137 units, with and without prompt and cache, in one batch."""
    generator = torch.Generator().manual_seed(0)
    rows = [codec.flow_input(cases[name]["units"], seed=k) for k, name in enumerate(FULL)]
    rows.append(
        codec.flow_input(
            cases["prompted"]["units"],
            "中文男",
            prompt_units=cases["prompted"]["prompt_units"],
            prompt_mel=torch.randn(80, 86, generator=generator),
        )
    )
    rows.append(codec.flow_input([9] * 33, cache=torch.randn(80, 34, 2, generator=generator)))
    for row, output in zip(rows, codec.flow.generate(rows), strict=True):
        (alone,) = codec.flow.generate([row])
        assert relative_error(output.mel, alone.mel) < 1e-5
        assert relative_error(output.cache, alone.cache) < 1e-5


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
    for single, output in zip(rows, flow.generate(rows), strict=True):
        assert relative_error(output.mel, flow.generate([single])[0].mel) < 1e-5


def test_padding_is_not_what_makes_the_batch_agree(codec: Codec, relative_error: Measure) -> None:
    """The comparison above can fail: without the mask the short row is wrong."""
    rows = [codec.flow_input([3] * 5), codec.flow_input([4] * 30)]
    condition = codec.flow.condition(rows)
    assert condition.mask is not None
    noise = torch.zeros_like(condition.mu)
    noise[0, :, :17] = rows[0].noise
    noise[1] = rows[1].noise
    args = (noise, condition.mu, condition.speaker, condition.prompt)
    unmasked = codec.flow.matching.integrate(*args, None)[0, :, :17]
    (alone,) = codec.flow.generate(rows[:1])
    assert relative_error(unmasked, alone.mel) > 1e-3


@pytest.mark.parametrize(
    ("units", "frames"), [(1, 3), (3, 10), (20, 68), (137, 472), (4479, 15431), (4480, 15434)]
)
def test_mel_frames(codec: Codec, units: int, frames: int) -> None:
    """At 4480 units the float formula, which the checkpoint was trained with, and the integer one part."""
    assert codec.params.flow.mel_frames(units) == frames
