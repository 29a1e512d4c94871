from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from antiphon.kernels import FeedForward, norm_feed_forward
from antiphon.kernels.norm_feed_forward import norm_feed_forward_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
MATRICES = ("out_weight", "up_weight", "down_weight")


def layer_of(channels: int, inner: int, hidden: int, randn: Draw) -> FeedForward:
    return FeedForward(
        out_weight=randn(channels, inner) / inner**0.5,
        out_bias=randn(channels),
        norm_weight=1 + randn(channels, seed=1) / 4,
        norm_bias=randn(channels, seed=2) / 4,
        up_weight=2 * randn(hidden, channels) / channels**0.5,
        up_bias=randn(hidden),
        down_weight=randn(channels, hidden) / hidden**0.5,
        down_bias=randn(channels, seed=3),
        eps=1e-5,
    )


def changed(layer: FeedForward, change: Callable[[str, Tensor], Tensor]) -> FeedForward:
    tensors: dict[str, Any] = {
        field.name: change(field.name, getattr(layer, field.name))
        for field in fields(layer)
        if field.name not in ("eps", "counters")
    }
    return replace(layer, **tensors)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(
    size=[(1, 1), (2, 5), (1, 70)], channels=[5, 24, 70], inner=[1, 40, 64], hidden=[3, 64, 100]
)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    size: tuple[int, int],
    channels: int,
    inner: int,
    hidden: int,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    layer = changed(layer_of(channels, inner, hidden, randn), lambda _, part: part.to(device))
    x, attended = (3 * randn(*size, width, seed=4).to(device) for width in (channels, inner))
    kept = x.clone()
    found = norm_feed_forward(x, attended, layer, backend=backend)
    exact = norm_feed_forward_reference(
        x.double(), attended.double(), changed(layer, lambda _, part: part.double())
    )
    assert_within_budget(found, norm_feed_forward_reference(x, attended, layer), exact)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits(dtype: torch.dtype, randn: Draw) -> None:
    """As near to exact as PyTorch's products, but that Triton's interpreter cuts off where a GPU rounds."""
    layer = changed(
        layer_of(40, 36, 160, randn), lambda name, part: part.to(dtype) if name in MATRICES else part
    )
    x, attended = 3 * randn(2, 33, 40, seed=4), randn(2, 33, 36, seed=5).to(dtype)
    exact = norm_feed_forward_reference(
        x.double(), attended.double(), changed(layer, lambda _, part: part.double())
    )
    found = norm_feed_forward(x, attended, layer, backend="triton")
    plain = norm_feed_forward_reference(x, attended, layer)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) <= 2 * float((plain - exact).abs().max())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("hidden", [64, 100, 128, 300])
def test_parts_of_a_tile_are_added_up(randn: Draw, assert_within_budget: Check, hidden: int) -> None:
    """The same by several programs as by one, call after call."""
    layer, x, attended = layer_of(24, 12, hidden, randn), randn(2, 21, 24), randn(2, 21, 12)
    exact = norm_feed_forward_reference(
        x.double(), attended.double(), changed(layer, lambda _, part: part.double())
    )
    counters = torch.zeros(3, dtype=torch.int32)
    for _ in range(2):
        found = norm_feed_forward(x, attended, replace(layer, counters=counters), backend="triton")
        assert_within_budget(found, norm_feed_forward_reference(x, attended, layer), exact)
        assert not counters.any()


def test_wide_layers_are_computed_in_another_way(randn: Draw) -> None:
    layer, x, attended = layer_of(260, 8, 16, randn), randn(1, 3, 260), randn(1, 3, 8)
    found = norm_feed_forward(x, attended, layer, backend="triton")
    assert torch.equal(found, norm_feed_forward_reference(x, attended, layer))


@pytest.mark.parametrize("size", [(0, 5), (2, 0)], ids=str)
def test_nothing(backend: str, device: torch.device, size: tuple[int, int], randn: Draw) -> None:
    layer = changed(layer_of(8, 12, 16, randn), lambda _, part: part.to(device))
    x, attended = (torch.empty(*size, width, device=device) for width in (8, 12))
    assert norm_feed_forward(x, attended, layer, backend=backend).shape == x.shape


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    layer, x, attended = layer_of(8, 12, 16, randn), randn(2, 5, 8), randn(2, 5, 12)
    with pytest.raises(ValueError, match=r"x: expected torch.float32 \(rows, frames, 8\) on cpu, got"):
        norm_feed_forward(x[..., :7], attended, layer, backend=backend)
    with pytest.raises(ValueError, match=r"attended: expected torch.float32 \(2, 5, inner\) on cpu, got"):
        norm_feed_forward(x, attended[:, :4], layer, backend=backend)
    wrong = replace(layer, down_weight=layer.down_weight[:, :9])
    with pytest.raises(ValueError, match=r"down_weight: expected torch.float32 \(8, 16\) on cpu, got"):
        norm_feed_forward(x, attended, wrong, backend=backend)
    with pytest.raises(ValueError, match=r"up_bias: expected torch.float32 \(16,\) on cpu, got"):
        norm_feed_forward(x, attended, replace(layer, up_bias=layer.up_bias[:9]), backend=backend)
    with pytest.raises(ValueError, match="layer: expected a FeedForward, got tuple"):
        norm_feed_forward(x, attended, (), backend=backend)  # type: ignore[arg-type]
