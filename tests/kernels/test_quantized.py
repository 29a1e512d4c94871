"""Weights in 16 and 8 bits: to the last bit what the float32 kernels make of the widened numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_stacks import STACKS, Session, Stack
from torch import Tensor

from antiphon.kernels import (
    DecoderLayer,
    Linear,
    QuantizedWeight,
    argmax_head,
    decoder_layers,
    linear,
    quantize_int8,
    soft_embedding,
)

Draw = Callable[..., Tensor]
EachIsa = Callable[[Callable[[], Any]], dict[str, Any]]

HALVES = [torch.bfloat16, torch.float16]

# around the widths of vectors, panels, pairs of slices (256) and blocks of rows
rows = st.one_of(st.integers(0, 30), st.sampled_from([95, 96, 97, 193]))
sizes = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 255, 256, 257, 400, 520]))
vocabularies = st.one_of(st.integers(1, 70), st.sampled_from([513, 1100]))
seeds = st.integers(0, 1000)


def spread(*shape: int, seed: int, randn: Draw) -> Tensor:
    """Numbers of many magnitudes, in float16 also subnormal ones, and zeros."""
    exponents = torch.randint(-26, 4, shape, generator=torch.Generator().manual_seed(seed))
    return torch.ldexp(randn(*shape, seed=seed), exponents)


@given(rows=rows, size=sizes, out=vocabularies, seed=seeds, dtype=st.sampled_from(HALVES))
def test_products_of_16_bits(
    with_each_isa: EachIsa, randn: Draw, rows: int, size: int, out: int, seed: int, dtype: torch.dtype
) -> None:
    x, residual = randn(rows, size, seed=seed), randn(rows, out, seed=seed)
    weight = spread(out, size, seed=seed, randn=randn).to(dtype)
    assert torch.equal(weight.float().to(dtype), weight)
    found = with_each_isa(lambda: linear(weight, backend="cpp")(x, residual))
    expected = with_each_isa(lambda: linear(weight.float(), backend="cpp")(x, residual))
    for isa, product in found.items():
        assert torch.equal(product, expected[isa]), isa


@given(rows=rows, size=sizes, out=vocabularies, seed=seeds)
def test_products_of_8_bits(
    with_each_isa: EachIsa, randn: Draw, rows: int, size: int, out: int, seed: int
) -> None:
    """The scale is applied once to the finished sum, and the residual is added after."""
    x, residual = randn(rows, size, seed=seed), randn(rows, out, seed=seed)
    quantized = quantize_int8(randn(out, size, seed=seed))
    found = with_each_isa(lambda: linear(quantized, backend="cpp")(x, residual))
    sums = with_each_isa(lambda: linear(quantized.values.float(), backend="cpp")(x))
    for isa, product in found.items():
        assert torch.equal(product, sums[isa] * quantized.scales + residual), isa


@settings(max_examples=40)
@given(rows=rows, size=sizes, vocab=vocabularies, seed=seeds, kind=st.sampled_from([*HALVES, torch.int8]))
def test_heads(
    with_each_isa: EachIsa, randn: Draw, rows: int, size: int, vocab: int, seed: int, kind: torch.dtype
) -> None:
    """The logits of a head in fewer bits are those of its product; a soft embedding mixes by them."""
    hidden, embedding = randn(rows, size, seed=seed) / size**0.5, randn(vocab, size, seed=seed + 1)
    weight = randn(vocab, size, seed=seed + 2)

    def run() -> tuple[Tensor, ...]:
        head = shortened(weight, kind)
        logits, best = head(hidden).max(-1, keepdim=True)
        ids, found = argmax_head(hidden, head, backend="cpp")
        assert torch.equal(found, logits)
        assert torch.equal(ids, best)
        return head(hidden), ids, *soft_embedding(hidden, head, embedding, backend="cpp")

    for logits, ids, mixed, labels in with_each_isa(run).values():
        expected = logits.double().softmax(-1) @ embedding.double()
        torch.testing.assert_close(mixed.double(), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(labels, ids[:, 0])


def shortened(weight: Tensor, kind: torch.dtype) -> Linear:
    if kind == torch.int8:
        return linear(quantize_int8(weight), backend="cpp")
    return linear(weight.to(kind), backend="cpp")


@settings(max_examples=40)
@given(rows=rows, size=sizes, vocab=vocabularies, seed=seeds, dtype=st.sampled_from(HALVES))
def test_an_embedding_of_16_bits(
    with_each_isa: EachIsa, randn: Draw, rows: int, size: int, vocab: int, seed: int, dtype: torch.dtype
) -> None:
    hidden, embedding = randn(rows, size, seed=seed), randn(vocab, size, seed=seed + 1).to(dtype)
    head = linear(randn(vocab, size, seed=seed + 2), backend="cpp")
    found = with_each_isa(lambda: soft_embedding(hidden, head, embedding, backend="cpp")[0])
    expected = with_each_isa(lambda: soft_embedding(hidden, head, embedding.float(), backend="cpp")[0])
    for isa, mixed in found.items():
        assert torch.equal(mixed, expected[isa]), isa


@pytest.mark.parametrize("shape", STACKS)
@pytest.mark.parametrize("kind", [*HALVES, torch.int8], ids=str)
def test_a_run_of_layers(isa: str, shape: str, kind: torch.dtype) -> None:
    """Of 16 bits to the last bit as the widened matrices; a row in 8 bits as in any other batch."""
    stack, fused = Stack.random(*STACKS[shape]), {0: frozenset({2, 3}), 1: frozenset(range(8))}

    def run(product: Callable[[Tensor], Linear], spans: list[list[tuple[int, int]]]) -> Tensor:
        layers = [
            DecoderLayer(**{n: w if w.dim() == 1 else product(w) for n, w in layer.items()})  # type: ignore[arg-type]
            for layer in stack.layers
        ]
        built = decoder_layers(layers, stack.final_norm, stack.geometry, stack.table, backend="cpp")
        session = Session(stack, built, (13, 8), fused=fused)
        return torch.cat([session.run(span) for span in spans])

    whole = [[(0, 13), (0, 8)]]
    found = run(lambda weight: shortened(weight, kind), whole)
    if kind != torch.int8:
        widened = run(lambda weight: linear(weight.to(kind).float(), backend="cpp"), whole)
        assert torch.equal(found, widened)
        return
    parts = run(lambda weight: shortened(weight, kind), [[(0, 12), (0, 0)], [(12, 13), (0, 8)]])
    assert torch.equal(parts, found)
    dequantized = run(lambda weight: linear(quantize_int8(weight).dequantized(), backend="cpp"), whole)
    torch.testing.assert_close(found, dequantized, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(isa: str, randn: Draw) -> None:
    """One row is multiplied by two slices at a time, many widen a slice once for several blocks of rows."""
    x = randn(130, 1100)
    for product in (linear(randn(65, 1100).bfloat16()), linear(quantize_int8(randn(65, 1100)))):
        whole = product(x)
        for start, end in [(0, 1), (7, 8), (0, 2), (5, 18), (1, 97), (90, 130)]:
            assert torch.equal(product(x[start:end]), whole[start:end])


def test_every_float16_is_widened_exactly(isa: str) -> None:
    """Subnormal ones and infinity included; of NaN, that it is one."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(torch.float16)[:, None]
    found = linear(numbers, backend="cpp")(torch.ones(1, 1))[0]
    torch.testing.assert_close(found, numbers[:, 0].float(), rtol=0, atol=0, equal_nan=True)


def test_quantize(randn: Draw) -> None:
    weight = randn(5, 40)
    weight[1], weight[2] = 0.0, -1.0
    weight[3, 7] = 100.0
    quantized = quantize_int8(weight)
    assert (quantized.values.dtype, quantized.scales.dtype) == (torch.int8, torch.float32)
    assert torch.equal(quantized.scales, weight.abs().amax(1) / 127)
    assert torch.equal(quantized.values.abs().amax(1), torch.tensor([127, 0, 127, 127, 127]).to(torch.int8))
    error = (quantized.dequantized() - weight).abs()
    assert (error <= quantized.scales[:, None] * 0.5001).all()
    assert torch.equal(quantize_int8(weight.bfloat16()).scales, weight.bfloat16().abs().amax(1).float() / 127)


def test_the_reference(randn: Draw) -> None:
    quantized = quantize_int8(randn(33, 20))
    product = linear(quantized, backend="torch")
    assert (product.in_features, product.out_features) == (20, 33)
    x, residual = randn(4, 20), randn(4, 33)
    exact = residual.double() + x.double() @ quantized.dequantized().double().T
    torch.testing.assert_close(product(x, residual).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(quantized)(x, residual).double(), exact, rtol=1e-5, atol=1e-5)
    halves = product(x.bfloat16())
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(
        halves.double(), x.double() @ quantized.dequantized().double().T, rtol=0.02, atol=0.1
    )


def test_bytes_read(randn: Draw) -> None:
    assert linear(randn(65, 5).bfloat16(), backend="cpp").num_bytes == 96 * 5 * 2
    assert linear(quantize_int8(randn(65, 5)), backend="cpp").num_bytes == 96 * 5 + 96 * 4
    assert linear(quantize_int8(randn(65, 5)), backend="torch").num_bytes == 65 * 5 + 65 * 4


def test_wrong_arguments_are_named(randn: Draw) -> None:
    quantized = quantize_int8(randn(4, 3))
    for weight, message in (
        (randn(3), r"weight: expected \(out, in\), neither of them 0, got \(3,\)"),
        (randn(3, 0), r"weight: expected \(out, in\), neither of them 0, got \(3, 0\)"),
        (torch.ones(3, 3, dtype=torch.int8), r"weight: expected floating point \(out, in\)"),
        (torch.full((3, 3), torch.nan), "weight: expected finite numbers, got NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_int8(weight)
    for wrong, message in (
        (QuantizedWeight(quantized.values.int(), quantized.scales), r"weight\.values: expected torch\.int8"),
        (
            QuantizedWeight(quantized.values[:0], quantized.scales[:0]),
            r"weight\.values: .*, neither of them 0",
        ),
        (
            QuantizedWeight(quantized.values, quantized.scales[1:]),
            r"weight\.scales: expected torch\.float32 \(4,\)",
        ),
        (
            QuantizedWeight(quantized.values, quantized.scales.half()),
            r"weight\.scales: expected torch\.float32",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            linear(wrong)
    for backend in ("cpp", "torch"):
        with pytest.raises(ValueError, match=r"x: expected .*\(rows, 3\), got torch\.int64"):
            linear(quantized, backend=backend)(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected torch\.float32 .* got torch\.bfloat16"):
        linear(randn(4, 3).bfloat16(), backend="cpp")(randn(2, 3).bfloat16())
    with pytest.raises(ValueError, match=r"hidden: expected torch\.float32 .* got torch\.bfloat16"):
        argmax_head(randn(2, 3).bfloat16(), linear(randn(4, 3).bfloat16(), backend="cpp"))
    with pytest.raises(ValueError, match=r"residual: expected torch\.float32 \(2, 4\), got torch\.float64"):
        linear(quantized)(randn(2, 3), randn(2, 4).double())
