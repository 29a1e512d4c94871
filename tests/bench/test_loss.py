"""What quantization loses is measured where it is lost: products of a model, and replies."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_MODEL
from random_checkpoint import CheckpointShape, write_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from antiphon import Engine, Request, SamplingParams
from antiphon.bench.formats import FORMATS, installed_formats, matrix_losses
from antiphon.bench.loss import Replied, Tap, names_of, perplexity, replies, tapped
from antiphon.kernels.quantized import quantize_int8
from antiphon.sched.request import RequestState

ASKED = [Request(text) for text in ("How many?", "Which one is it, the red one?")]


def test_a_tap_multiplies_in_float32_and_sees_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 64, generator=generator) for size in (10, 96))
    tap = Tap(weight)
    torch.testing.assert_close(tap(x), x @ weight.T)
    torch.testing.assert_close(tap(x, x @ weight.T), 2 * (x @ weight.T))
    dynamic, weight_only = tap.decibels()
    error = x @ (quantize_int8(weight).dequantized() - weight).T
    expected = 10 * torch.log10((x @ weight.T).square().sum() / error.square().sum())
    assert weight_only == pytest.approx(float(expected), abs=0.01)
    assert 30 < dynamic < weight_only
    whole = Tap(torch.full((4, 8), 127.0))
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


TEXTS, TOKENS = 16, 250


def rewritten(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """Changes the matrices of the text track."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    is_text = ("model.layers.", "model.embed_tokens.", "lm_head.")
    for name, tensor in tensors.items():
        if name.startswith(is_text) and tensor.dim() == 2:
            tensors[name] = change(name, tensor).contiguous()
    save_file(tensors, file)
    return folder


@pytest.fixture(scope="module")
def orthogonal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose LLM is random and orthogonal. Rows of its head have a length of about 1, what they
    read has 8. The loss grows with the square of that: with rows twice as long int8 moves it by 0.15 %."""
    generator = torch.Generator().manual_seed(0)

    def orthonormal(name: str, weight: Tensor) -> Tensor:
        long, short = max(weight.shape), min(weight.shape)
        q: Tensor = torch.linalg.qr(torch.randn(long, short, generator=generator))[0]
        q = q if len(weight) == long else q.T
        if name.startswith("model.layers."):
            return q
        return q * math.sqrt(weight.shape[1] if "embed" in name else long / short)

    shape = CheckpointShape(hidden=64, intermediate=128, llm_layers=3, bottom_layers=1, top_layers=1, units=8)
    folder = write_checkpoint(tmp_path_factory.mktemp("orthogonal") / "model", shape)
    return rewritten(folder, orthonormal)


@pytest.fixture(scope="module")
def sampled(orthogonal: Path) -> tuple[list[Replied], float]:
    """Texts that this LLM has drawn, and their perplexity."""
    params = [
        SamplingParams(temperature=1.0, seed=seed, max_tokens=TOKENS, ignore_eos=True)
        for seed in range(TEXTS)
    ]
    with Engine(orthogonal, dtype="float32") as engine:
        texts = replies(engine, [Request("ab"[: 1 + seed % 2]) for seed in range(TEXTS)], params)
        assert sum(len(text.ids) - text.num_prompt for text in texts) == TEXTS * TOKENS
        return texts, perplexity(engine, texts)


@pytest.mark.parametrize("name", [*FORMATS][1:])
def test_perplexity_of_an_orthogonal_llm_hardly_moves(
    name: str, orthogonal: Path, sampled: tuple[list[Replied], float]
) -> None:
    """By at most a thousandth; by the library's 4 bits more."""
    if name not in installed_formats():
        pytest.skip("its library is not installed")
    texts, expected = sampled
    assert 100 < expected < 300, "of 331 ids"
    with Engine(orthogonal, **FORMATS[name]) as engine:
        moved = abs(perplexity(engine, texts) / expected - 1)
    assert moved < (0.03 if name == "bitsandbytes-4bit" else 0.001)


def test_perplexity_shows_what_is_lost(
    orthogonal: Path, sampled: tuple[list[Replied], float], tmp_path: Path
) -> None:
    """With 15 numbers for each row instead of 255 it moves further."""

    def coarse(name: str, weight: Tensor) -> Tensor:
        scales = weight.abs().amax(1, keepdim=True) / 7
        return (weight / scales).round() * scales

    texts, expected = sampled
    copy = Path(shutil.copytree(orthogonal, tmp_path / "model"))
    with Engine(rewritten(copy, coarse), dtype="float32") as engine:
        assert perplexity(engine, texts) > expected * 1.02
