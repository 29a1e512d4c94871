"""Products with int8 weights in Triton: the reference's numbers, and those of no row depend on another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import (
    QuantizedWeight,
    argmax_head,
    linear,
    quantize_int8,
    quantize_rows,
    registry,
    silu_mul,
    soft_embedding,
)
from antiphon.kernels.linear import TorchLinear, TritonLinear
from antiphon.kernels.soft_embedding import soft_embedding_reference

pytest.importorskip("triton")

Draw = Callable[..., Tensor]
HalfCheck = Callable[[Tensor, Tensor, Tensor], None]

DEVICE = device_of("triton")

# (rows, in, out): one for each tiling, and sizes that no tile divides
SHAPES = [(1, 16, 40), (1, 1, 33), (5, 300, 17), (25, 33, 70), (40, 3, 130), (66, 65, 9)]


def rows_of(randn: Draw, rows: int, size: int, *, outliers: float = 0.02) -> Tensor:
    """Of several magnitudes, with numbers that are far larger than the others."""
    x = randn(rows, size) * randn(rows, 1).exp()
    return (x * torch.where(randn(rows, size, seed=1).abs() < outliers, 300.0, 1.0)).to(DEVICE)


def product_of(randn: Draw, out: int, size: int, *, dynamic: bool) -> TritonLinear:
    product = linear(quantize_int8(randn(out, size).to(DEVICE), dynamic=dynamic), backend="triton")
    assert isinstance(product, TritonLinear)
    return product


def reference(product: TritonLinear, x: Tensor, residual: Tensor | None = None) -> Tensor:
    return linear(product.quantized, backend="torch")(x, residual)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(shape=SHAPES, dynamic=[False, True], has_residual=[False, True])
def test_products(shape: tuple[int, int, int], dynamic: bool, has_residual: bool, randn: Draw) -> None:
    rows, size, out = shape
    product = product_of(randn, out, size, dynamic=dynamic)
    x, residual = rows_of(randn, rows, size), randn(rows, out, seed=2).to(DEVICE) if has_residual else None
    found, expected = product(x, residual), reference(product, x, residual)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dynamic", [False, True])
def test_many_rows(dynamic: bool, randn: Draw) -> None:
    """Also of a matrix whose tiles are wide."""
    for rows, size, out in ((200, 40, 1), (130, 300, 140), (3, 40, 8200)):
        product, x = product_of(randn, out, size, dynamic=dynamic), rows_of(randn, rows, size)
        found, expected = product(x), reference(product, x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("dynamic", [False, True])
def test_products_in_16_bits(
    dtype: torch.dtype, rows: int, dynamic: bool, randn: Draw, assert_within_half_budget: HalfCheck
) -> None:
    """Against the product of the same whole numbers, exactly."""
    product = product_of(randn, 33, 100, dynamic=dynamic)
    x, residual = randn(rows, 100).to(DEVICE, dtype), randn(rows, 33, seed=1).to(DEVICE, dtype)
    read = x.double()
    if dynamic:
        values, scales, outliers = quantize_rows(x)
        read = values.double() * scales.double()[:, None] + outliers.double()
    weight = product.quantized
    exact = read @ (weight.values.double() * weight.scales.double()[:, None]).T + residual.double()
    assert_within_half_budget(product(x, residual), reference(product, x, residual), exact)


def test_rows_in_8_bits(randn: Draw) -> None:
    """To the last bit the reference's, with rows that are longer than what a program holds, too."""
    from antiphon.kernels.triton.int8_rows import quantized_rows

    for rows, size in ((3, 20_000), (4, 700), (2, 1)):
        x = rows_of(randn, rows, size, outliers=0.002)
        x[1] = 0.0
        found, about = quantized_rows(x)
        values, scales, outliers = quantize_rows(x)
        assert torch.equal(found, values)
        assert torch.equal(about[:, 0].contiguous().view(torch.float32), scales)
        assert torch.equal(about[:, 1], (outliers != 0).sum(1))
        most = size // 12 + 1
        for row in range(rows):
            places = outliers[row].nonzero()[:, 0]
            assert torch.equal(about[row, 2 : 2 + len(places)], places.int())
            bits = about[row, 2 + most : 2 + most + len(places)].contiguous()
            assert torch.equal(bits.view(torch.float32), outliers[row, places])


def test_a_row_does_not_depend_on_its_batch(randn: Draw) -> None:
    """Whole numbers are summed up exactly, and outliers in their own order, whatever the tiles."""
    x, product = rows_of(randn, 35, 90), product_of(randn, 20, 90, dynamic=True)
    assert quantize_rows(x)[2].any()
    whole, gated = product(x), product.silu_mul(x)
    for start, end in [(0, 1), (7, 9), (1, 21)]:
        assert torch.equal(product(x[start:end]), whole[start:end])
        assert torch.equal(product.silu_mul(x[start:end]), gated[start:end])


def test_rows_of_nothing_and_of_too_much(randn: Draw) -> None:
    """Each spoils no other row: zeros, NaN, infinity, numbers whose scale would be too small or is large."""
    x = randn(8, 100).to(DEVICE)
    x[1], x[2, 3], x[3, 0], x[4, 99] = 0.0, torch.nan, torch.inf, -torch.inf
    x[5] *= 1e-35
    x[6] *= 1e30
    product = product_of(randn, 20, 100, dynamic=True)
    found = product(x)
    assert found.isnan().all(1).tolist() == [False, False, True, True, True, False, False, False]
    assert not found[[1, 5]].any()
    torch.testing.assert_close(found, reference(product, x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_any_strides(dynamic: bool, randn: Draw) -> None:
    weight = quantize_int8(randn(33, 20).to(DEVICE), dynamic=dynamic)
    strided = QuantizedWeight(weight.values.T.contiguous().T, weight.scales, dynamic)
    product = linear(strided, backend="triton")
    x = torch.full((6, 24), torch.nan, device=DEVICE)
    x[:, 2:22] = randn(6, 20)
    residual = randn(1, 33).to(DEVICE).expand(6, 33)
    expected = linear(weight, backend="torch")(x[:, 2:22], residual)
    for rows in (x[:, 2:22], x[:, 2:22].T.contiguous().T):
        torch.testing.assert_close(product(rows, residual), expected)
    torch.testing.assert_close(product(x[:, 2:22], residual.T.contiguous().T), expected)
    assert product(x[:0, 2:22]).shape == (0, 33)


@pytest.mark.parametrize("rows", [1, 20])
def test_gates(rows: int, randn: Draw) -> None:
    for dynamic in (False, True):
        product = product_of(randn, 2 * 21, 50, dynamic=dynamic)
        x = randn(rows, 50).to(DEVICE)
        torch.testing.assert_close(
            product.silu_mul(x), silu_mul(product(x), backend="torch"), rtol=1e-5, atol=1e-5
        )


@pytest.mark.pairwise(rows=[1, 5, 33], dynamic=[False, True], top_k=[1, 5], with_subset=[False, True])
def test_heads(rows: int, dynamic: bool, top_k: int, with_subset: bool, randn: Draw) -> None:
    product, x = product_of(randn, 140, 24, dynamic=dynamic), rows_of(randn, rows, 24)
    subset = torch.randperm(140, generator=torch.Generator().manual_seed(0))[:90].to(DEVICE)
    chosen = subset if with_subset else None
    found = argmax_head(x, product, top_k=top_k, subset=chosen, backend="triton")
    expected = argmax_head(x, product, top_k=top_k, subset=chosen, backend="torch")
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    if dynamic:
        assert torch.equal(found[1], expected[1]), "the logits are those of the product"


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", [(1, 6, 33), (7, 40, 100), (70, 24, 65)], ids=str)
@pytest.mark.parametrize("dynamic", [False, True])
def test_soft_embeddings(shape: tuple[int, int, int], dynamic: bool, randn: Draw) -> None:
    """Ids whose rows are of several magnitudes, and one that is nothing."""
    rows, size, vocab = shape
    product, x = product_of(randn, vocab, size, dynamic=dynamic), randn(rows, size).to(DEVICE)
    table = quantize_int8((randn(vocab, size, seed=1) * randn(vocab, 1).exp()).to(DEVICE))
    table.values[3], table.scales[3] = 0, 0.0
    found, labels = soft_embedding(x, product, table, backend="triton")
    expected, likeliest = soft_embedding_reference(x, product, table)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, likeliest)


@pytest.mark.parametrize("dynamic", [False, True])
def test_soft_embeddings_of_a_table_that_was_kept(dynamic: bool, randn: Draw) -> None:
    product, x = product_of(randn, 65, 24, dynamic=dynamic), randn(3, 24).to(DEVICE)
    table = randn(65, 24, seed=1).to(DEVICE)
    found, labels = soft_embedding(x, product, table, backend="triton")
    expected, likeliest = soft_embedding_reference(x, product, table)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, likeliest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_soft_embeddings_in_16_bits(
    dtype: torch.dtype, randn: Draw, assert_within_half_budget: HalfCheck
) -> None:
    """The head in floating point, the table in int8, with scales that are small in float16."""
    weight, x = randn(65, 24).to(DEVICE, dtype), randn(3, 24).to(DEVICE, dtype)
    table = quantize_int8(randn(65, 24, seed=1).to(DEVICE) * 1e-3)
    found, _ = soft_embedding(x, TorchLinear(weight), table, backend="triton")
    shares = (x.double() @ weight.double().T).softmax(-1)
    in_pytorch = shares.to(dtype) @ table.dequantized().to(dtype)
    assert_within_half_budget(found, in_pytorch, shares @ table.dequantized().double())


def test_wrong_arguments_are_named(randn: Draw) -> None:
    product = product_of(randn, 4, 3, dynamic=True)
    assert product.num_bytes == 4 * 3 + 4 * 4
    x = randn(2, 3).to(DEVICE)
    with pytest.raises(ValueError, match=r"x: expected \(rows, 3\), got \(2, 4\)"):
        product(randn(2, 4).to(DEVICE))
    with pytest.raises(ValueError, match=r"residual: expected torch\.float32 \(2, 4\), got torch\.float64"):
        product(x, randn(2, 4).to(DEVICE).double())
    with pytest.raises(ValueError, match="x, residual: expected no gradients"):
        product(x.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"linear: backend 'triton' does not take torch\.float32 on"):
        linear(x, backend="triton")
    assert product(x.double()).dtype == torch.float64


def test_a_gpu_takes_it() -> None:
    cuda = torch.device("cuda")
    assert registry.takes("linear", "triton", cuda, torch.int8)
    assert not registry.takes("linear", "triton", cuda, torch.bfloat16)
