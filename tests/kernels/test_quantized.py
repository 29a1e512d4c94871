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
    quantize_rows,
    soft_embedding,
)
from antiphon.kernels.quantized import MAX_IN_FEATURES, quantized_linear_reference

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


@given(rows=rows, size=sizes, out=vocabularies, seed=seeds, outliers=st.sampled_from([0, 0.01]))
def test_products_of_quantized_rows(
    with_each_int8_isa: EachIsa, randn: Draw, rows: int, size: int, out: int, seed: int, outliers: float
) -> None:
    """Where nothing is an outlier, the sums are exact; then they are scaled in one order."""
    x = randn(rows, size, seed=seed) * randn(rows, 1, seed=seed).exp()
    x *= torch.where(randn(rows, size, seed=seed + 1).abs() < outliers, 300.0, 1.0)
    residual = randn(rows, out, seed=seed)
    quantized = quantize_int8(randn(out, size, seed=seed), dynamic=True)
    expected = quantized_linear_reference(x, quantized, residual)
    is_exact = not quantize_rows(x)[2].any()
    for isa, product in with_each_int8_isa(lambda: linear(quantized, backend="cpp")(x, residual)).items():
        if is_exact:
            assert torch.equal(product, expected), isa
        else:
            torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_largest_sums_fit(int8_isa: str) -> None:
    """All numbers the largest there are, in the widest matrix that is taken."""
    for sign in (1, -1):
        quantized = quantize_int8(torch.full((33, MAX_IN_FEATURES), float(sign)), dynamic=True)
        found = linear(quantized, backend="cpp")(torch.ones(5, MAX_IN_FEATURES))
        torch.testing.assert_close(found, torch.full((5, 33), float(sign * MAX_IN_FEATURES)))


def test_rows_of_nothing_and_of_too_much(int8_isa: str, randn: Draw) -> None:
    """Each spoils no other row: zeros, NaN, infinity, numbers whose scale would be too small or is large."""
    x = randn(8, 100)
    x[1], x[2, 3], x[3, 0], x[4, 99] = 0.0, torch.nan, torch.inf, -torch.inf
    x[5] *= 1e-35
    x[6] *= 1e30
    quantized = quantize_int8(randn(40, 100), dynamic=True)
    found = linear(quantized, backend="cpp")(x)
    assert torch.equal(found.isnan().all(1), torch.tensor([0, 0, 1, 1, 1, 0, 0, 0]).bool())
    assert not found[[1, 5]].any()
    torch.testing.assert_close(
        found, quantized_linear_reference(x, quantized), rtol=0, atol=0, equal_nan=True
    )


def test_quantized_rows(randn: Draw) -> None:
    x = randn(3, 200)
    x[1, 17] = 1000.0
    values, scales, outliers = quantize_rows(x)
    assert values.dtype == torch.int8
    assert outliers.nonzero().tolist() == [[1, 17]]
    assert [int(values[1, 17]), float(outliers[1, 17])] == [0, 1000.0]
    assert values.abs().amax(1).tolist() == [127] * 3
    error = values * scales[:, None] + outliers - x
    assert (error.abs() <= scales[:, None] * 0.5001).all()
    assert torch.equal(quantize_rows(x[1:2])[0], values[1:2])


@pytest.mark.parametrize("num_outliers", [0, 1, 8])
def test_outliers_cost_the_others_little(int8_isa: str, randn: Draw, num_outliers: int) -> None:
    """Above 30 dB, with as large numbers as Llama's layers have; without them apart it would be 0."""
    x, weight = randn(20, 4096), randn(64, 4096)
    places = torch.randint(4096, (num_outliers,), generator=torch.Generator().manual_seed(0))
    x[:, places] *= 500
    found = linear(quantize_int8(weight, dynamic=True), backend="cpp")(x).double()
    assert decibels(found, x.double() @ weight.double().T) > 35
    # What the outliers add has the error of the weights alone.
    found -= x[:, places].double() @ quantize_int8(weight).dequantized()[:, places].double().T
    x[:, places] = 0
    assert decibels(found, x.double() @ weight.double().T) > 35


def decibels(found: Tensor, exact: Tensor) -> float:
    return float(10 * torch.log10(exact.square().mean() / (found - exact).square().mean()))


@settings(max_examples=40)
@given(
    rows=rows,
    size=sizes,
    vocab=vocabularies,
    seed=seeds,
    kind=st.sampled_from([*HALVES, torch.int8, torch.uint8]),
)
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
    """torch.uint8 stands for int8 that multiplies int8."""
    if kind in (torch.int8, torch.uint8):
        return linear(quantize_int8(weight, dynamic=kind == torch.uint8), backend="cpp")
    return linear(weight.to(kind), backend="cpp")


@settings(max_examples=40)
@given(rows=rows, size=sizes, vocab=vocabularies, seed=seeds)
def test_an_embedding_of_8_bits(
    with_each_isa: EachIsa, randn: Draw, rows: int, size: int, vocab: int, seed: int
) -> None:
    hidden, embedding = randn(rows, size, seed=seed), quantize_int8(randn(vocab, size, seed=seed + 1))
    head = linear(randn(vocab, size, seed=seed + 2), backend="cpp")
    found = with_each_isa(lambda: soft_embedding(hidden, head, embedding, backend="cpp"))
    expected, labels = soft_embedding(hidden, head, embedding, backend="torch")
    for isa, (mixed, likeliest) in found.items():
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4, msg=isa)
        assert torch.equal(likeliest, labels), isa


def test_rows_of_a_table(randn: Draw) -> None:
    table, ids = quantize_int8(randn(9, 20)), torch.tensor([8, 0, 8])
    assert torch.equal(table.embed(ids), table.dequantized()[ids])


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
@pytest.mark.parametrize("kind", [*HALVES, torch.int8, torch.uint8], ids=str)
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
    if kind in HALVES:
        widened = run(lambda weight: linear(weight.to(kind).float(), backend="cpp"), whole)
        assert torch.equal(found, widened)
        return
    parts = run(lambda weight: shortened(weight, kind), [[(0, 12), (0, 0)], [(12, 13), (0, 8)]])
    assert torch.equal(parts, found)
    dequantized = run(lambda weight: linear(quantize_int8(weight).dequantized(), backend="cpp"), whole)
    if kind == torch.int8:
        torch.testing.assert_close(found, dequantized, rtol=1e-4, atol=1e-4)
    else:
        assert decibels(found.double(), dequantized.double()) > 30


def test_a_row_does_not_depend_on_its_batch(isa: str, randn: Draw) -> None:
    """One row is multiplied by two slices at a time, many widen a slice once for several blocks of rows."""
    x = randn(130, 1100)
    products = (
        linear(randn(65, 1100).bfloat16()),
        linear(quantize_int8(randn(65, 1100))),
        linear(quantize_int8(randn(65, 1100), dynamic=True)),
    )
    for product in products:
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
    assert linear(quantize_int8(randn(65, 65), dynamic=True), backend="cpp").num_bytes == 96 * 128 + 96 * 4


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
        (
            QuantizedWeight(quantized.values, quantized.scales, dynamic=1),  # type: ignore[arg-type]
            r"weight\.dynamic: expected a bool, got int",
        ),
        (
            QuantizedWeight(
                torch.ones(1, MAX_IN_FEATURES + 1, dtype=torch.int8), torch.ones(1), dynamic=True
            ),
            r"weight\.values: expected at most 65536 inputs, since it is dynamic, got 65537",
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
    table = QuantizedWeight(quantized.values[:3], quantized.scales[:3])
    with pytest.raises(ValueError, match=r"embedding\.values: expected torch\.int8 \(4, 3\), got .*\(3, 3\)"):
        soft_embedding(randn(2, 3), linear(randn(4, 3)), table)
    with pytest.raises(ValueError, match=r"residual: expected torch\.float32 \(2, 4\), got torch\.float64"):
        linear(quantized)(randn(2, 3), randn(2, 4).double())
