"""`encoder`: the module that is exported is the function of the codec's front part, and where frames lie is
what the codec computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.flow import FlowInput, FlowModel, UnitSpan
from antiphon.codec.flow.unet import UNet
from antiphon.export.conditions import ENCODER_PART, Trial, places
from antiphon.export.encoder import EncoderNetwork
from antiphon.export.part import PRECISIONS, Precision
from antiphon.export.sources import FlowSource
from antiphon.export.verify import difference

BATCHES = [(1,), (2,), (44,), (45, 1, 12, 3)]


@pytest.fixture(params=["golden", "odd"])
def any_source(
    request: pytest.FixtureRequest,
    source: FlowSource,
    odd_flow_params: FlowParams,
    randomized: Callable[[nn.Module], Any],
) -> FlowSource:
    if request.param == "golden":
        return source
    return FlowSource(odd_flow_params, randomized(FlowModel(odd_flow_params)), {})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_of_a_padded_batch_are_those_of_the_codec(any_source: FlowSource, precision: Precision) -> None:
    """Utterances, with a prompt too, and chunks of streams; what the padding holds does not matter."""
    network = EncoderNetwork(any_source.model, PRECISIONS[precision])
    for number, sizes in enumerate(BATCHES):
        trial = Trial.drawn(any_source, sizes, torch.Generator().manual_seed(number))
        with torch.inference_mode():
            compared = ENCODER_PART.compare(trial, lambda *given: list(network(*given)))
        for result, bound in ENCODER_PART.bounds[precision].items():
            off = difference(*compared[result])
            assert off.relative < bound.largest / 10 or precision == "fp16", (sizes, result, off)
            assert off.relative < bound.largest, (sizes, result, off)
        mu = network(*trial.given)[0]
        assert not (mu * (1 - trial.given[4])).any()


def test_batches_have_every_kind_of_row() -> None:
    """Utterances, utterances with a prompt, and chunks of streams."""
    for batches in (BATCHES, ENCODER_PART.batches, ENCODER_PART.quick_batches):
        assert {(i + size) % 3 for sizes in batches for i, size in enumerate(sizes)} == {0, 1, 2}


def test_a_row_without_units_leaves_the_others_alone(source: FlowSource) -> None:
    trial = Trial.drawn(source, (12, 12), torch.Generator().manual_seed(0))
    network = EncoderNetwork(source.model, torch.float32)
    units, unit_mask, left, weight, mask, embedding = trial.given
    with torch.inference_mode():
        both, _ = network(*trial.given)
        unit_mask, mask = unit_mask.clone(), mask.clone()
        unit_mask[1], mask[1] = 0, 0
        found, _ = network(units, unit_mask, left, weight, mask, embedding)
    assert torch.equal(found[0], both[0])


@settings(max_examples=30)
@given(data=st.data())
def test_places_are_those_of_the_codec(source: FlowSource, data: st.DataObject) -> None:
    """Frames of random rows, gathered by place, are those that the codec interpolates."""
    params = source.params
    number = data.draw(st.integers(1, 200), "units")
    said = data.draw(st.integers(0, 60), "prompt units")
    frames = data.draw(st.integers(1, 200), "prompt frames") if said else 0
    span = None
    if data.draw(st.booleans(), "stream"):
        context = data.draw(st.integers(0, said), "context")
        span = UnitSpan(data.draw(st.integers(0, 5000), "first"), context)
        own = params.mel_frames(span.first + context) - params.mel_frames(span.first)
        frames = own + (frames if context < said else 0)
    hidden = torch.randn(said + number, 7, generator=torch.Generator().manual_seed(number))
    row = FlowInput(
        torch.zeros(number, dtype=torch.int64),
        torch.zeros(1),
        torch.zeros(80, 1),
        torch.zeros(said, dtype=torch.int64) if said else None,
        torch.zeros(80, frames) if said else None,
        span,
    )
    expected = source.flow._stretch(hidden, row)
    left, weight = places(params, number, prompt=(said, frames), span=span)
    right = (left + 1).clamp(max=len(hidden) - 1)
    found = torch.lerp(hidden[left], hidden[right], weight[:, None]).mT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_estimator_is_not_part_of_the_fingerprint(source: FlowSource) -> None:
    """A file stays good when only the estimator has been trained on."""
    before = ENCODER_PART.weights(source)
    other = FlowModel(source.params)
    other.load_state_dict(source.model.state_dict())
    estimator = other.decoder["estimator"]
    assert isinstance(estimator, UNet)
    estimator.final_proj.weight.data += 1
    assert ENCODER_PART.weights(FlowSource(source.params, other, {})) == before
    other.encoder_proj.weight.data[0, 0] += 1
    assert ENCODER_PART.weights(FlowSource(source.params, other, {})) != before
