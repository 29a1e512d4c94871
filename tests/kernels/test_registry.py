"""The registry picks what fits the tensors and this machine, and says what there is where nothing does."""

from __future__ import annotations

import pytest
import torch

from antiphon.kernels import backends, ops, registry
from antiphon.kernels.registry import on_cpu, on_cuda, register, resolve

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def float32_on_cpu(device: torch.device, dtype: torch.dtype) -> bool:
    return on_cpu(device, dtype) and dtype == torch.float32


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> str:
    """An op of three implementations, each of which returns its backend's name."""
    monkeypatch.setattr(registry, "_IMPLEMENTATIONS", {})
    register("double", "cuda", is_available=lambda: False, supports=on_cuda)(lambda: "cuda")
    register("double", "cpp", supports=float32_on_cpu)(lambda: "cpp")
    register("double", "torch")(lambda: "torch")
    return "double"


def test_the_first_that_fits_runs(op: str) -> None:
    assert resolve(op, None, CPU, torch.float32)() == "cpp"
    assert resolve(op, None, CPU, torch.float64)() == "torch"
    assert resolve(op, None, CUDA, torch.float32)() == "torch", "the cuda backend cannot run on this machine"


def test_a_named_backend_runs_or_says_why_not(op: str) -> None:
    assert resolve(op, "torch", CPU, torch.float32)() == "torch"
    with pytest.raises(ValueError, match="backend 'cuda' cannot run on this machine, which has cpp, torch"):
        resolve(op, "cuda", CUDA, torch.float32)
    with pytest.raises(ValueError, match=r"backend 'cpp' does not take torch.float64 on cpu"):
        resolve(op, "cpp", CPU, torch.float64)
    with pytest.raises(ValueError, match="backend: expected one of cuda, cpp, torch, got 'Torch'"):
        resolve(op, "Torch", CPU, torch.float32)


def test_backends_are_what_can_run_here(op: str) -> None:
    assert backends(op) == ["cpp", "torch"]
    with pytest.raises(ValueError, match="op: expected one of double, got 'triple'"):
        backends("triple")


def test_every_op_has_a_reference() -> None:
    """`torch` runs everywhere, so every op can be used, and checked, on any machine."""
    assert "ctc_collapse" in ops()
    assert all("torch" in backends(op) for op in ops())
