from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import silu_mul
from antiphon.kernels.silu_mul import silu_mul_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]

# the last one goes parallel
SHAPES = [(0, 8), (1, 1), (5, 33), (17, 2001)]


@pytest.mark.pairwise(shape=SHAPES, scale=[1.0, 1e-3, 30.0])
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[int, int],
    scale: float,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    gate_up = (randn(shape[0], 2 * shape[1]) * scale).to(device)
    found = silu_mul(gate_up, backend=backend)
    assert_within_budget(found, silu_mul_reference(gate_up), silu_mul_reference(gate_up.double()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_in_16_bits(
    dtype: torch.dtype, shape: tuple[int, int], randn: Draw, assert_within_half_budget: Check
) -> None:
    gate_up = randn(shape[0], 2 * shape[1]).to(device_of("triton"), dtype)
    found = silu_mul(gate_up, backend="triton")
    assert_within_half_budget(found, silu_mul_reference(gate_up), silu_mul_reference(gate_up.double()))


@pytest.mark.parametrize("size", [1, 40], ids=["tail", "vectors"])
def test_far_from_zero(backend: str, device: torch.device, size: int) -> None:
    """The exponential neither overflows nor drags the gate's sign along."""
    gate = torch.tensor(
        [-1e30, -1e4, -100.0, -88.5, -87.0, -60.0, -20.0, -0.0, 0.0, 20.0, 87.0, 88.5, 100.0, 1e4, 1e30]
    )
    rows = gate.to(device)[:, None].expand(-1, size)
    found = silu_mul(torch.cat([rows, torch.ones_like(rows)], dim=1), backend=backend)
    exact = torch.nn.functional.silu(rows.double())
    torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=1e-30)


def test_a_row_does_not_depend_on_its_batch(randn: Draw) -> None:
    gate_up = randn(700, 202)
    whole = silu_mul(gate_up, backend="cpp")
    for start, end in [(0, 1), (350, 357), (1, 700)]:
        assert torch.equal(silu_mul(gate_up[start:end], backend="cpp"), whole[start:end])


@pytest.mark.best_isa
def test_strided_input(backend: str, device: torch.device, randn: Draw) -> None:
    gate_up = randn(4, 22).to(device)
    found = silu_mul(gate_up.T.contiguous().T, backend=backend)
    torch.testing.assert_close(found, silu_mul_reference(gate_up))


def test_wrong_arguments_are_named(randn: Draw) -> None:
    for wrong in (randn(2, 3), randn(4)):
        with pytest.raises(ValueError, match=r"gate_up: expected \(rows, 2 \* n\), got"):
            silu_mul(wrong)
