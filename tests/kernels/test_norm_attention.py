from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from antiphon.kernels import norm_attention
from antiphon.kernels.norm_attention import norm_attention_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
EPS = 1e-5


def arguments(
    lengths: tuple[int, ...], channels: int, heads: int, head_dim: int, randn: Draw
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x = 2 + 3 * randn(len(lengths), max(lengths), channels)
    weight = 2 * randn(3 * heads * head_dim, channels) / channels**0.5
    counts = torch.tensor(lengths, dtype=torch.int32)
    return x, 1 + randn(channels) / 4, randn(channels, seed=1) / 4, weight, counts


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(
    lengths=[(1,), (5, 2, 0), (33, 70), (64, 64)],
    channels=[5, 24, 70],
    heads=[(1, 16), (3, 12)],
)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    lengths: tuple[int, ...],
    channels: int,
    heads: tuple[int, int],
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    parts = arguments(lengths, channels, *heads, randn)
    x, norm_weight, norm_bias, weight, counts = (part.to(device) for part in parts)
    found = norm_attention(x, norm_weight, norm_bias, EPS, weight, heads[0], counts, backend=backend)
    plain = norm_attention_reference(x, norm_weight, norm_bias, EPS, weight, heads[0], counts)
    exact = norm_attention_reference(
        x.double(), norm_weight.double(), norm_bias.double(), EPS, weight.double(), heads[0], counts
    )
    assert_within_budget(found, plain, exact)
    assert not any(found[row, length:].any() for row, length in enumerate(lengths))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits(dtype: torch.dtype, randn: Draw) -> None:
    """As near to exact as PyTorch's products, but that Triton's interpreter cuts off where a GPU rounds."""
    x, norm_weight, norm_bias, weight, counts = arguments((33, 70), 40, 3, 12, randn)
    weight = weight.to(dtype)
    found = norm_attention(x, norm_weight, norm_bias, EPS, weight, 3, counts, backend="triton")
    plain = norm_attention_reference(x, norm_weight, norm_bias, EPS, weight, 3, counts)
    exact = norm_attention_reference(
        x.double(), norm_weight.double(), norm_bias.double(), EPS, weight.double(), 3, counts
    )
    assert found.dtype == dtype
    most = 2 if dtype == torch.float16 else 3
    assert float((found - exact).abs().max()) <= most * float((plain - exact).abs().max())


def test_padding_is_not_looked_at(backend: str, device: torch.device, randn: Draw) -> None:
    """Whatever lies there, and however the frames lie in memory."""
    parts = arguments((40, 9), 24, 2, 16, randn)
    x, norm_weight, norm_bias, weight, counts = (part.to(device) for part in parts)
    alone = norm_attention(x[1:, :9], norm_weight, norm_bias, EPS, weight, 2, backend=backend)
    x[1, 9:] = torch.nan
    turned = x.mT.contiguous().mT
    found = norm_attention(turned, norm_weight, norm_bias, EPS, weight, 2, counts, backend=backend)
    torch.testing.assert_close(found[1:, :9], alone, rtol=1e-5, atol=1e-5)
    assert not found[1, 9:].any()


def test_long_rows_are_computed_in_another_way(randn: Draw) -> None:
    x, norm_weight, norm_bias, weight, counts = arguments((300, 7), 8, 1, 4, randn)
    found = norm_attention(x, norm_weight, norm_bias, EPS, weight, 1, counts, backend="triton")
    plain = norm_attention_reference(x, norm_weight, norm_bias, EPS, weight, 1, counts)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)], ids=str)
def test_nothing(shape: tuple[int, int, int], randn: Draw) -> None:
    weight = randn(36, 8)
    found = norm_attention(torch.empty(shape), weight[0], weight[0], EPS, weight, 3, backend="triton")
    assert found.shape == (*shape[:2], 12)


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    x, norm_weight, norm_bias, weight, counts = arguments((5, 3), 8, 3, 4, randn)
    with pytest.raises(ValueError, match=r"weight: expected \(3 \* 5 \* head_dim, channels\), got \(36, 8\)"):
        norm_attention(x, norm_weight, norm_bias, EPS, weight, 5, counts, backend=backend)
    with pytest.raises(ValueError, match=r"x: expected torch.float32 \(rows, frames, 8\) on cpu, got"):
        norm_attention(x[..., :7], norm_weight, norm_bias, EPS, weight, 3, counts, backend=backend)
    with pytest.raises(ValueError, match=r"norm_bias: expected torch.float32 \(8,\) on cpu, got"):
        norm_attention(x, norm_weight, norm_bias.double(), EPS, weight, 3, counts, backend=backend)
    with pytest.raises(ValueError, match=r"lengths: expected torch.int32 \(2,\) on cpu, got torch.int64"):
        norm_attention(x, norm_weight, norm_bias, EPS, weight, 3, counts.long(), backend=backend)
