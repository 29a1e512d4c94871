"""The way of a GPU through a run of layers: Triton kernels wherever there are any, in its interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
import torch
from gpu_path import take_gpu_path
from layer_stacks import STACKS, Session, Stack
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon.kernels import DecoderLayer, decoder_layers, linear, quantize_int8

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton does not interpret")

Check = Callable[[Tensor, Tensor, Tensor], None]
TorchAlone = Callable[[Callable[[], Tensor]], Tensor]

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
FUSED = {0: frozenset({2, 3, 11}), 2: frozenset(range(6))}


class NoWaiting(TorchDispatchMode):
    """Fails where an operator would make the host wait for a GPU: none of them can be captured in a graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            t is not None and t.dtype == torch.bool
            for indices in args
            if isinstance(indices, (list, tuple))
            for t in indices
        )
        assert name not in WAITS and not by_mask, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def tolist(x: Tensor) -> NoReturn:
        raise AssertionError("tolist waits for the device")

    with monkeypatch.context() as patch, NoWaiting():  # type: ignore[no-untyped-call]
        patch.setattr(Tensor, "tolist", tolist)
        yield


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    take_gpu_path(monkeypatch)


def run(stack: Stack, dtype: torch.dtype, fused: dict[int, frozenset[int]]) -> Iterator[Callable[[], Tensor]]:
    """A prefill, then a batch of a chunk, a decoding step, a late prefill and a sequence without a query."""
    layers = stack.build("torch", dtype)
    session = Session(stack, layers, (13, 8, 6, 6), dtype=dtype, fused=fused)
    for spans in ([(0, 7), (0, 7), (0, 0), (0, 6)], [(7, 13), (7, 8), (0, 6), (6, 6)]):
        yield session.prepared(spans)


def outputs(stack: Stack, dtype: torch.dtype, fused: dict[int, frozenset[int]]) -> Tensor:
    return torch.cat([step() for step in run(stack, dtype, fused)])


def test_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(3)
    for waits in (lambda: int(x[0]), lambda: x[x > 1], lambda: x.tolist()[0], lambda: x.nonzero()[0]):
        with pytest.raises(AssertionError, match="waits for the device"), no_waiting(monkeypatch):
            waits()
    with no_waiting(monkeypatch):
        x[x].index_copy_(0, x, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "one-layer"])
@pytest.mark.parametrize("fused", [{}, FUSED], ids=["alone", "fused"])
@pytest.mark.long
def test_within_the_error_budget_without_waiting(
    as_on_a_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fused: dict[int, frozenset[int]],
    torch_alone: TorchAlone,
    assert_within_budget: Check,
) -> None:
    stack = Stack.random(*STACKS[name])
    found = []
    for step in run(stack, torch.float32, fused):
        with no_waiting(monkeypatch):
            found.append(step())
    in_pytorch = torch_alone(lambda: outputs(stack, torch.float32, fused))
    exact = torch_alone(lambda: outputs(stack, torch.float64, fused))
    assert_within_budget(torch.cat(found), in_pytorch, exact)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_fusion_of_all_rows_takes_no_launches_beside_kernels_and_products(as_on_a_gpu: None) -> None:
    """Neither are rows picked out and put back, nor is a residual added by itself."""
    stack = Stack.random(*STACKS["one-layer"])
    session = Session(stack, stack.build("torch"), (2,), fused={0: frozenset({0, 1})}, by_empty_windows=True)
    step = session.prepared([(0, 2)])
    with Operators() as counted:
        step()
    products = [name for name in counted.names if name in ("mm", "addmm_")]
    assert sorted(products) == ["addmm_", *["mm"] * 5], counted.names
    assert not {"index", "index_copy_", "add", "add_", "arange"} & set(counted.names), counted.names


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.long
def test_in_16_bits(as_on_a_gpu: None, dtype: torch.dtype, torch_alone: TorchAlone) -> None:
    """Close to the composition of the references in the same dtype, roundings of three layers apart."""
    stack = Stack.random(*STACKS["odd"])
    found = outputs(stack, dtype, FUSED)
    in_pytorch = torch_alone(lambda: outputs(stack, dtype, FUSED))
    roundings = 8 * torch.finfo(dtype).eps * float(in_pytorch.abs().max())
    torch.testing.assert_close(found, in_pytorch, rtol=0, atol=roundings)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dynamic", [False, True])
def test_in_8_bits(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, dynamic: bool, torch_alone: TorchAlone
) -> None:
    """Int8 weights by Triton, without waiting, and but for rounding as by the references."""
    stack = Stack.random(*STACKS["one-layer"])

    def steps() -> Iterator[Callable[[], Tensor]]:
        layers = [
            DecoderLayer(
                **{  # type: ignore[arg-type]
                    name: weight if weight.dim() == 1 else linear(quantize_int8(weight, dynamic=dynamic))
                    for name, weight in layer.items()
                }
            )
            for layer in stack.layers
        ]
        made = decoder_layers(layers, stack.final_norm, stack.geometry, stack.table, backend="torch")
        session = Session(stack, made, (2, 3), fused={0: frozenset({0, 1})})
        for spans in ([(0, 2), (0, 2)], [(2, 2), (2, 3)]):
            yield session.prepared(spans)

    expected = torch_alone(lambda: torch.cat([step() for step in steps()]))
    parts = []
    for step in steps():
        with no_waiting(monkeypatch):
            parts.append(step())
    found = torch.cat(parts)
    # A number that is rounded to another whole number by a last bit moves the result by a step of 1 / 127.
    tolerance = 0.05 if dynamic else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
