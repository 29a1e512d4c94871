"""The implementations that this machine can run, and how far from exact a kernel may be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from all_pairs import all_pairs
from devices import device_of
from torch import Tensor

from antiphon.kernels import _C, registry

TAKE_ISA = (
    "Decoder",
    "Hift",
    "UNet",
    "argmax",
    "argmax_head",
    "ctc_collapse",
    "fusion_attention",
    "fusion_cache_write",
    "linear",
    "paged_attention",
    "rms_norm",
    "rms_norm_residual",
    "rope_cache_write",
    "silu_mul",
    "soft_embedding",
)


def _runs(isa: str) -> bool:
    try:
        _C.argmax(0, 0, 0, 1, isa=isa)
    except ValueError:
        return False
    return True


ISAS = [isa for isa in ("avx512", "avx2", "plain") if _runs(isa)]
INT8_ISAS = [isa for isa in ("amx", "vnni", *ISAS) if _runs(isa)]
"""Of which each multiplies int8 by int8 in its own way"""

EachIsa = Callable[[Callable[[], object]], dict[str, object]]


def _use_isa(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    for name in TAKE_ISA:
        monkeypatch.setattr(_C, name, functools.partial(getattr(_C, name), isa=isa))


def _use_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves no other backend, also to ops that are called by ops."""
    known = registry._IMPLEMENTATIONS
    monkeypatch.setattr(registry, "_IMPLEMENTATIONS", {op: {"torch": known[op]["torch"]} for op in known})


@pytest.fixture
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An instruction set, which the C++ kernels use for the length of the test."""
    isa: str = request.param
    _use_isa(monkeypatch, isa)
    return isa


@pytest.fixture
def int8_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same for `INT8_ISAS`."""
    isa: str = request.param
    _use_isa(monkeypatch, isa)
    return isa


@pytest.fixture(scope="session")
def with_each_isa() -> EachIsa:
    """Calls a function once for each instruction set. New memory is poisoned: unwritten numbers show."""
    return _calling_with(ISAS)


@pytest.fixture(scope="session")
def with_each_int8_isa() -> EachIsa:
    """The same for `INT8_ISAS`."""
    return _calling_with(INT8_ISAS)


def _calling_with(isas: list[str]) -> EachIsa:
    new_empty = Tensor.new_empty

    def poisoned(like: Tensor, *size: object, **options: object) -> Tensor:
        fresh: Tensor = new_empty(like, *size, **options)  # type: ignore[call-overload]
        return fresh.fill_(torch.nan if fresh.is_floating_point() else -12345 if fresh.itemsize > 1 else 99)

    def call(function: Callable[[], object]) -> dict[str, object]:
        found = {}
        for isa in isas:
            with pytest.MonkeyPatch.context() as patch:
                _use_isa(patch, isa)
                patch.setattr(Tensor, "new_empty", poisoned)
                found[isa] = function()
        return found

    return call


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`isa` is each instruction set, `int8_isa` each of `INT8_ISAS`. `backend` is each backend that runs here
    of the op that the file or the mark `op(name)` names, the C++ one with each instruction set that it takes,
    or marked `best_isa` with the best alone.

    Marked `pairwise(name=values, ...)`, a test has cases in which any two values meet, those of these
    fixtures included.
    """
    values: dict[str, list[object]] = {}
    if "backend" in metafunc.fixturenames and not _is_parametrized(metafunc, "backend"):
        values["backend"] = [*_backends(metafunc)]
    if "isa" in metafunc.fixturenames:
        values["isa"] = [*ISAS]
    if "int8_isa" in metafunc.fixturenames:
        values["int8_isa"] = [*INT8_ISAS]
    pairwise = metafunc.definition.get_closest_marker("pairwise")
    if pairwise is not None:
        values |= pairwise.kwargs
    if values:
        cases = all_pairs(*map(list, values.values()))
        fixtures = [name for name in values if name in ("backend", "isa", "int8_isa")]
        metafunc.parametrize(list(values), cases, indirect=fixtures, ids=str)


def _backends(metafunc: pytest.Metafunc) -> list[str]:
    marked = metafunc.definition.get_closest_marker("op")
    op = marked.args[0] if marked is not None else metafunc.definition.path.stem.removeprefix("test_")
    best_alone = metafunc.definition.get_closest_marker("best_isa") is not None
    takes_isa = op in TAKE_ISA or op == "decoder_layers"
    isas = ISAS if takes_isa and not best_alone else ISAS[:1]
    apart = {"flash-attn", "flashinfer"}  # in test_attention_libraries.py
    if op == "linear":
        apart.add("triton")  # takes int8 alone: test_quantized_triton.py
    names = [name for name in registry.backends(op) if name not in apart]
    return [f"cpp-{isa}" for isa in isas if "cpp" in names] + [name for name in names if name != "cpp"]


def _is_parametrized(metafunc: pytest.Metafunc, name: str) -> bool:
    return any(name in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend's name. For the length of the test, cpp has its instruction set, and torch runs alone."""
    name, _, isa = request.param.partition("-")
    if name == "torch":
        _use_torch_alone(monkeypatch)
    elif name == "cpp":
        _use_isa(monkeypatch, isa)
    return str(name)


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where a test's tensors belong: on the GPU for its backends, if there is one; otherwise on the CPU."""
    return device_of(backend)


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Tensor]], Tensor]:
    """Calls a function while there is no backend but `torch`."""

    def call(function: Callable[[], Tensor]) -> Tensor:
        with monkeypatch.context() as patch:
            _use_torch_alone(patch)
            return function()

    return call


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised tensors hold values that spoil any result computed from them."""

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan if tensor.is_floating_point() else 101)

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


@pytest.fixture(scope="session")
def randn() -> Callable[..., Tensor]:
    """Normal numbers, the same for the same shape and seed."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))

    return draw


@pytest.fixture(scope="session")
def assert_within_budget() -> Callable[[Tensor, Tensor, Tensor], None]:
    """The largest error against `exact` is at most twice that of PyTorch in float32 plus a few roundings."""

    def check(found: Tensor, in_pytorch: Tensor, exact: Tensor) -> None:
        assert found.shape == exact.shape
        assert found.dtype == in_pytorch.dtype == torch.float32
        assert exact.dtype == torch.float64
        if not exact.numel():
            return
        roundings = 4 * torch.finfo(torch.float32).eps * float(exact.abs().max())
        budget = 2 * float((in_pytorch - exact).abs().max()) + roundings
        error = float((found - exact).abs().max())
        assert error <= budget, f"largest error {error:.3g}, allowed are {budget:.3g}"

    return check


@pytest.fixture(scope="session")
def assert_within_half_budget() -> Callable[[Tensor, Tensor, Tensor], None]:
    """The same in 16 bits: the largest error is at most twice that of PyTorch plus one rounding."""

    def check(found: Tensor, in_pytorch: Tensor, exact: Tensor) -> None:
        assert found.shape == exact.shape
        assert found.dtype == in_pytorch.dtype
        assert exact.dtype == torch.float64
        if not exact.numel():
            return
        rounding = torch.finfo(found.dtype).eps * float(exact.abs().max())
        budget = 2 * float((in_pytorch.double() - exact).abs().max()) + rounding
        error = float((found.double() - exact).abs().max())
        assert error <= budget, f"largest error {error:.3g}, allowed are {budget:.3g}"

    return check
