"""What int8 products are timed against computes the same, as nearly as its rows are quantized."""

from __future__ import annotations

import pytest
import torch

from antiphon.bench.int8_peers import peers
from antiphon.kernels import linear, quantize_int8
from antiphon.kernels.linear import TorchQuantizedLinear


@pytest.mark.parametrize("name", peers())
def test_peers_agree(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(20, 128, generator=generator), torch.randn(96, 128, generator=generator)
    quantized = linear(quantize_int8(weight, dynamic=True), backend="torch")
    assert isinstance(quantized, TorchQuantizedLinear)
    expected = x @ weight.T
    for _ in range(2):  # what it may keep fits the weight that it is kept for
        found = peers()[name](x, quantized)
        assert (found - expected).square().mean() < expected.square().mean() * 1e-3
        assert found.shape == expected.shape


def test_which_there_are() -> None:
    pytest.importorskip("onnxruntime")
    assert [*peers()] == ["torch weight_int8pack_mm", "torch int_mm", "onnxruntime"]
