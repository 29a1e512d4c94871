"""What quantization loses is measured where it is lost: products of a model, and replies."""

from __future__ import annotations

import math

import pytest
import torch
from checkpoints import RANDOM_MODEL
from torch import Tensor

from antiphon import Engine, Request, SamplingParams
from antiphon.bench.formats import matrix_losses
from antiphon.bench.loss import Replied, Tap, names_of, perplexity, replies, tapped
from antiphon.kernels.linear import TorchLinear
from antiphon.kernels.quantized import quantize_int8
from antiphon.sched.request import RequestState

ASKED = [Request(text) for text in ("How many?", "Which one is it, the red one?")]


def test_a_tap_multiplies_in_float32_and_sees_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 64, generator=generator) for size in (10, 96))
    tap = Tap(TorchLinear(weight))
    assert torch.equal(tap(x), x @ weight.T)
    assert torch.equal(tap(x, x @ weight.T), 2 * (x @ weight.T))
    dynamic, weight_only = tap.decibels()
    error = x @ (quantize_int8(weight).dequantized() - weight).T
    expected = 10 * torch.log10((x @ weight.T).square().sum() / error.square().sum())
    assert weight_only == pytest.approx(float(expected), abs=0.01)
    assert 30 < dynamic < weight_only
    whole = Tap(TorchLinear(torch.full((4, 8), 127.0)))
    whole(torch.full((3, 8), 127.0))
    assert whole.decibels() == (math.inf, math.inf)


@pytest.mark.slow
def test_each_matrix_of_a_model_is_seen() -> None:
    with Engine(RANDOM_MODEL, dtype="float32") as engine:
        expected = engine.generate(ASKED)
    with tapped() as taps, Engine(RANDOM_MODEL, dtype="float32") as engine:
        found = engine.generate(ASKED)
        names = names_of(engine.model_config)
    assert [done.text_ids for done in found] == [done.text_ids for done in expected]
    losses = {loss.name: loss for loss in matrix_losses(names, taps)}
    assert {name for name in losses if name.startswith("text")} == {
        name for name in names if name.startswith("text")
    }
    assert "LM head" in losses
    assert "unit head" not in losses, "nothing was spoken"
    sizes = dict(zip(names, ((tap.in_features, tap.out_features) for tap in taps), strict=True))
    config = engine.model_config
    assert sizes["text 0 down"] == (config.intermediate_size, config.hidden_size)
    assert sizes["LM head"] == (config.hidden_size, config.text_vocab_size)
    assert sizes["unit head"] == (config.hidden_size, config.vocab_size)
    assert all(loss.weight_only_db > 30 for loss in losses.values())
    with Engine(RANDOM_MODEL) as engine:
        assert engine.model.lm_head.num_bytes > 0, "engines are made as before"


@pytest.mark.slow
def test_perplexity_is_that_of_what_was_picked() -> None:
    likely: list[Tensor] = []

    def note(name: str, request: RequestState, first: int, rows: Tensor) -> None:
        likely.append(rows.double().log_softmax(-1).amax(-1))

    with Engine(RANDOM_MODEL, dtype="float32") as engine:
        texts = replies(engine, ASKED)
        engine.runner.tracer = note
        engine.generate(ASKED, SamplingParams(max_tokens=64))
        engine.runner.tracer = None
        found = perplexity(engine, texts)
        assert len(texts) == 2
        assert found == pytest.approx(float(torch.stack(likely).mean().neg().exp()), rel=1e-4)
        wrong = [Replied([*text.ids[:-1], (text.ids[-1] + 1) % 500], text.num_prompt) for text in texts]
        assert perplexity(engine, wrong) > found
