"""x W^T: within the error budget, and a row's result is the same to the last bit whatever its batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from antiphon.kernels import linear
from antiphon.kernels.linear import linear_reference, pack_panels

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]

# (rows, in, out): panels are 32 wide, depth is cut at 128, rows at 96; the last three go parallel
SHAPES = [
    (0, 16, 40),
    (1, 1, 33),
    (13, 512, 31),
    (97, 100, 65),
    (25, 3, 500),
    (200, 33, 1),
    (2, 1300, 70),
    (100, 515, 97),
    (9, 14336, 33),  # the deepest product of the released size
]


@pytest.mark.pairwise(shape=SHAPES, with_residual=[False, True])
def test_within_the_error_budget(
    backend: str,
    shape: tuple[int, int, int],
    with_residual: bool,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    rows, size, out = shape
    x, weight = randn(rows, size), randn(out, size)
    residual = randn(rows, out, seed=1) if with_residual else None
    product = linear(weight, backend=backend)
    assert (product.in_features, product.out_features) == (size, out)
    found = product(x, residual.clone() if residual is not None else None)
    exact = linear_reference(x.double(), weight.double(), residual.double() if with_residual else None)  # type: ignore[union-attr]
    assert_within_budget(found, linear_reference(x, weight, residual), exact)


@pytest.mark.parametrize("shape", [(200, 1100, 65), (130, 600, 1000)], ids=str)
def test_a_row_does_not_depend_on_its_batch(isa: str, shape: tuple[int, int, int], randn: Draw) -> None:
    rows, size, out = shape
    x, residual = randn(rows, size), randn(rows, out, seed=1)
    product = linear(randn(out, size), backend="cpp")
    whole, added = product(x), product(x, residual.clone())
    for start, end in [(0, 1), (7, 8), (rows - 1, rows), (0, 2), (5, 18), (1, 97), (90, 130), (3, rows)]:
        assert torch.equal(product(x[start:end]), whole[start:end])
        assert torch.equal(product(x[start:end], residual[start:end].clone()), added[start:end])
    assert torch.equal(product(x.flip(0)), whole.flip(0))


def test_a_block_of_any_height_is_the_same(isa: str, randn: Draw) -> None:
    """Rows are multiplied in blocks of up to twelve, of even heights."""
    x, product = randn(40, 31), linear(randn(33, 31), backend="cpp")
    whole = product(x)
    for rows in range(1, 40):
        assert torch.equal(product(x[:rows]), whole[:rows])


@pytest.mark.best_isa
def test_rows_at_a_distance(backend: str, randn: Draw) -> None:
    """What lies between the rows is neither read nor written."""
    product = linear(randn(33, 20), backend=backend)
    x = torch.full((6, 24), torch.nan)
    x[:, 2:22] = randn(6, 20)
    residual = torch.full((6, 40), torch.nan)
    residual[:, 4:37] = randn(6, 33)
    expected = product(x[:, 2:22].contiguous(), residual[:, 4:37].contiguous())
    torch.testing.assert_close(product(x[:, 2:22], residual[:, 4:37]), expected)
    assert residual[:, :4].isnan().all()
    assert residual[:, 37:].isnan().all()
    columns_first = x[:, 2:22].T.contiguous().T
    torch.testing.assert_close(product(columns_first), product(x[:, 2:22].contiguous()))


def test_pack_panels(randn: Draw) -> None:
    weight = randn(70, 5)
    panels = pack_panels(weight)
    assert panels.shape == (3, 5, 32)
    assert torch.equal(panels.transpose(1, 2).reshape(96, 5)[:70], weight)
    assert not panels[2, :, 6:].any()
    assert torch.equal(pack_panels(weight.T.contiguous().T), panels), "any strides"


@pytest.mark.best_isa
def test_bytes_read(backend: str, randn: Draw) -> None:
    """What one pass reads, padding included: the floor of a decoding step is counted in these."""
    assert linear(randn(64, 5), backend=backend).num_bytes == 64 * 5 * 4
    assert linear(randn(65, 5), backend=backend).num_bytes == (96 if backend == "cpp" else 65) * 5 * 4


@pytest.mark.best_isa
def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    with pytest.raises(ValueError, match=r"weight: expected \(out, in\), neither of them 0, got \(3,\)"):
        linear(randn(3), backend=backend)
    with pytest.raises(ValueError, match="weight: expected"):
        linear(randn(3, 0), backend=backend)
    product = linear(randn(3, 4), backend=backend)
    with pytest.raises(
        ValueError, match=r"x: expected torch.float32 \(rows, 4\), got torch.float32 \(2, 5\)"
    ):
        product(randn(2, 5))
    with pytest.raises(ValueError, match=r"x: expected torch.float32 \(rows, 4\), got torch.float64"):
        product(randn(2, 4).double())
    with pytest.raises(ValueError, match=r"residual: expected torch.float32 \(2, 3\), got .* \(1, 3\)"):
        product(randn(2, 4), randn(1, 3))
    with pytest.raises(ValueError, match=r"linear: backend: expected one of .*torch, got 'gpu'"):
        linear(randn(3, 4), backend="gpu")


def test_other_dtypes_go_to_torch(randn: Draw) -> None:
    weight = randn(3, 4).double()
    assert linear(weight)(randn(2, 4).double()).dtype == torch.float64
    with pytest.raises(ValueError, match=r"backend 'cpp' does not take torch.float64"):
        linear(weight, backend="cpp")


def test_weights_of_16_bits_take_float32_on_the_cpu(randn: Draw) -> None:
    weight = randn(3, 4).bfloat16()
    x = randn(2, 4)
    torch.testing.assert_close(linear(weight)(x), x @ weight.float().T)
    torch.testing.assert_close(linear(weight, backend="torch")(x), x @ weight.float().T)
    assert linear(weight, backend="torch")(x.bfloat16()).dtype == torch.bfloat16
