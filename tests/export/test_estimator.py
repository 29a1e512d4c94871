"""The module that is exported is the estimator's function, before any of it becomes ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.unet import UNet
from antiphon.export.estimator import EstimatorNetwork
from antiphon.export.sources import FlowSource

FRAMES = (26, 13, 1)


def drawn(frames: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The arguments of the network, with padding that must not matter."""
    generator = torch.Generator().manual_seed(0)
    rows, longest = len(frames), max(frames)
    x, mu, prompt = torch.randn(3, rows, 80, longest, generator=generator).unbind()
    mask = (torch.arange(longest) < torch.tensor(frames)[:, None])[:, None].float()
    t, speaker = torch.rand(rows, generator=generator), torch.randn(rows, 80, generator=generator)
    return x, mask, mu, t, speaker, prompt


def alone(unet: UNet, given: tuple[Tensor, ...], i: int, frames: int) -> Tensor:
    x, _, mu, t, speaker, prompt = (part[i : i + 1] for part in given)
    on_each = speaker[:, :, None].expand(-1, -1, frames)
    parts = [x[..., :frames], mu[..., :frames], on_each, prompt[..., :frames]]
    velocity: Tensor = unet(torch.cat(parts, dim=1), unet.time_bias(t)[0])
    return velocity[0]


@pytest.fixture(params=["golden", "odd"])
def unet(
    request: pytest.FixtureRequest,
    source: FlowSource,
    odd_flow_params: FlowParams,
    randomized: Callable[[nn.Module], Any],
) -> UNet:
    if request.param == "golden":
        return source.estimator
    made: UNet = randomized(UNet(odd_flow_params.estimator))
    return made


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_rows_of_a_padded_batch_are_those_of_the_estimator(
    unet: UNet, dtype: torch.dtype, bound: float
) -> None:
    given = drawn(FRAMES)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with torch.inference_mode():
        found = EstimatorNetwork(unet, dtype)(*given)
        for i, frames in enumerate(FRAMES):
            expected = alone(unet, given, i, frames)
            error = (found[i, :, :frames] - expected).abs().max() / expected.abs().max()
            assert error < bound
            assert not found[i, :, frames:].any()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_a_row_without_a_frame_leaves_the_others_alone(source: FlowSource) -> None:
    x, mask, *rest = drawn((26, 26))
    network = EstimatorNetwork(source.estimator, torch.float32)
    with torch.inference_mode():
        both = network(x, mask, *rest)
        mask[1] = 0
        assert torch.equal(network(x, mask, *rest)[0], both[0])
