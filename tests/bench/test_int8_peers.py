"""What int8 products are timed against computes the same, as nearly as its rows are quantized."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor

from antiphon.bench import int8_peers
from antiphon.bench.int8_peers import peers
from antiphon.kernels import linear, quantize_int8
from antiphon.kernels.linear import TorchQuantizedLinear

OPTIONAL = {
    "onnx": ["onnxruntime", "onnxruntime MatMulNBits"],
    "torchao": ["torchao compiled", "torchao compiled, int8 rows"],
    "bitsandbytes": ["bitsandbytes"],
}


def product(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, TorchQuantizedLinear]:
    """x, what it gives with the weight in float32, and the quantized weight"""
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(size, inputs, generator=generator) for size in (rows, outputs))
    quantized = linear(quantize_int8(weight, dynamic=True), backend="torch")
    assert isinstance(quantized, TorchQuantizedLinear)
    return x, x @ weight.T, quantized


@pytest.mark.parametrize("name", peers())
def test_peers_agree(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What one keeps for a weight and a shape is for these alone."""
    way = peers()[name]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows, outputs in ((20, 96), (1, 96), (20, 64), (20, 96)):
            # Blocks of MatMulNBits are longer; torch's own take only multiples of 16.
            x, expected, quantized = product(rows, 144, outputs)
            for _ in range(2):
                found = way(x, quantized)
                assert (found - expected).square().mean() < expected.square().mean() * 1e-3
                assert found.shape == expected.shape
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.root.manager.disable == logging.NOTSET


def test_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is imported before it is called."""
    own = ["torch weight_int8pack_mm", "torch int_mm"]
    for installed in ((), *((package,) for package in OPTIONAL), tuple(OPTIONAL)):
        there = {*installed, "onnxruntime"}
        monkeypatch.setattr(int8_peers, "find_spec", lambda name, there=there: name in there or None)
        assert [*peers()] == [*own, *(name for package in installed for name in OPTIONAL[package])]
    code = "from antiphon.bench.int8_peers import peers; import sys; peers(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {*OPTIONAL, "onnxruntime", "torch._dynamo.eval_frame"} & {*run.stdout.split()}
    assert run.stderr == ""
