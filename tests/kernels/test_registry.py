"""The registry picks what fits the tensors and this machine, and says what there is where nothing does."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from antiphon.kernels import backends, ops, registry
from antiphon.kernels.cuda import library
from antiphon.kernels.registry import on_cpu, on_cuda, register, resolve

CPU = torch.device("cpu")
CUDA = torch.device("cuda")

DECLARED = {
    "argmax": ["cpp", "torch"],
    "argmax_head": ["cpp", "triton", "torch"],
    "ctc_collapse": ["cpp", "cuda", "triton", "torch"],
    "decoder_layers": ["cpp", "torch"],
    "fusion_attention": ["cpp", "triton", "torch"],
    "fusion_cache_write": ["cpp", "triton", "torch"],
    "linear": ["cpp", "triton", "torch"],
    "masked_conv": ["triton", "torch"],
    "masked_group_norm": ["triton", "torch"],
    "norm_attention": ["triton", "torch"],
    "norm_feed_forward": ["triton", "torch"],
    "normal_rows": ["triton", "torch"],
    "paged_attention": ["cpp", "triton", "torch", "flash-attn", "flashinfer"],
    "rms_norm": ["cpp", "triton", "torch"],
    "rms_norm_residual": ["cpp", "triton", "torch"],
    "rope_cache_write": ["cpp", "triton", "torch"],
    "sample": ["cpp", "triton", "torch"],
    "silu_mul": ["cpp", "triton", "torch"],
    "snake": ["triton", "torch"],
    "soft_embedding": ["cpp", "triton", "torch"],
}
"""All implementations of each op, in the order in which they are tried."""
HAS_GPU = torch.cuda.is_available()
IS_HERE = {
    "cpp": True,
    "cuda": HAS_GPU and library.has_library() and library.can_run(),
    "flash-attn": HAS_GPU and importlib.util.find_spec("flash_attn") is not None,
    "flashinfer": HAS_GPU and importlib.util.find_spec("flashinfer") is not None,
    "torch": True,
    "triton": importlib.util.find_spec("triton") is not None,  # without a GPU in its interpreter
}
"""What the machine that runs the tests must offer."""


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


def test_every_op_has_its_implementations_in_their_order() -> None:
    assert {op: list(known) for op, known in registry._IMPLEMENTATIONS.items()} == DECLARED


@pytest.mark.parametrize("op", DECLARED)
def test_what_this_machine_has_can_run(op: str) -> None:
    """None is lost: C++ is always built for the tests, and Triton interprets where there is no GPU."""
    assert backends(op) == [name for name in DECLARED[op] if IS_HERE[name]]


def test_every_op_has_a_reference() -> None:
    """`torch` runs everywhere, so every op can be used, and checked, on any machine."""
    assert "ctc_collapse" in ops()
    assert all("torch" in backends(op) for op in ops())


@pytest.mark.parametrize(("status", "first"), [(0, "cuda"), (35, "triton"), (209, "triton")])
def test_a_library_that_the_driver_does_not_take_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, status: int, first: str
) -> None:
    """35: the driver is older than the CUDA that compiled it; 209: nothing is in it for this GPU. The call
    once failed."""
    functions = SimpleNamespace(antiphon_ctc_collapse_status=lambda: status)
    monkeypatch.setattr(library, "has_library", lambda: True)
    monkeypatch.setattr(library, "library", lambda: functions)
    monkeypatch.setattr(registry, "cuda_available", lambda: True)
    known = registry._IMPLEMENTATIONS["ctc_collapse"]
    is_available = registry.cuda_library_available.__wrapped__
    monkeypatch.setitem(known, "cuda", replace(known["cuda"], is_available=is_available))
    assert registry.choose("ctc_collapse", CUDA, torch.int32) == first
