"""Which implementations an op has, and which of them runs.

Implementations are registered under a backend name, fastest first: if the caller names no backend, they are
tried in the order of registration. Triton's interpreter runs only if named, and so do libraries, which stand
behind the reference. All implementations of an op take
the same arguments, which its wrapper has checked. What an implementation needs is imported when it runs, so
registering costs nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "Backend",
    "backends",
    "choose",
    "cpp_available",
    "cpp_float32",
    "cuda_available",
    "cuda_library_available",
    "instrumented",
    "on_cpu",
    "on_cuda",
    "on_triton",
    "on_triton_floats",
    "ops",
    "register",
    "resolve",
    "takes",
    "triton_available",
    "without",
]

Backend = Literal["triton", "cuda", "cpp", "torch", "flash-attn", "flashinfer"]
Supports: TypeAlias = "Callable[[torch.device, torch.dtype], bool]"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Implementation:
    function: Callable[..., Any]
    is_available: Callable[[], bool]
    """Can it run on this machine at all?"""
    supports: Supports
    """Does it take tensors of this device and dtype?"""


_IMPLEMENTATIONS: dict[str, dict[str, Implementation]] = {}


def _always(*_: object) -> bool:
    return True


def register(
    op: str,
    backend: Backend,
    *,
    is_available: Callable[[], bool] = _always,
    supports: Supports = _always,
) -> Callable[[Function], Function]:
    """Decorates the implementation of `op` for `backend`."""

    def add(function: Function) -> Function:
        known = _IMPLEMENTATIONS.setdefault(op, {})
        assert backend not in known, f"{op} has two implementations for {backend}"
        known[backend] = Implementation(function, is_available, supports)
        return function

    return add


def ops() -> list[str]:
    """The names of all ops."""
    return sorted(_IMPLEMENTATIONS)


def backends(op: str) -> list[str]:
    """The backends of `op` that can run on this machine, in the order in which they are tried."""
    return [name for name, implementation in _of(op).items() if implementation.is_available()]


def takes(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Does this backend of `op` take tensors of this device and dtype?"""
    return _of(op)[backend].supports(device, dtype)


def choose(op: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that runs `op` on tensors of this device and dtype if the caller names none."""
    known = _of(op)
    for name, implementation in known.items():
        if name == "triton" and device.type == "cpu":
            continue  # its interpreter is slow, and only there to test the kernels
        if implementation.supports(device, dtype) and implementation.is_available():
            return name
    raise ValueError(f"{op}: no backend takes {dtype} on {device.type}; it has {', '.join(known)}")


def resolve(
    op: str,
    backend: str | None,
    device: torch.device,
    dtype: torch.dtype,
    *differentiated: torch.Tensor | None,
) -> Callable[..., Any]:
    """The implementation of `op` for tensors of this device and dtype: the named one, or the first that fits.

    differentiated: the tensors that the result has gradients for. If one wants them, only `torch` will do.

    Raises ValueError if the name is unknown, or if that backend cannot run here or take such tensors.
    """
    known = _of(op)
    if _wants_gradients(differentiated):
        if backend is None:
            backend = "torch"
        elif backend != "torch" and backend in known:
            raise ValueError(
                f"{op}: backend {backend!r} computes no gradients: "
                "call it under torch.no_grad(), or use 'torch'"
            )
    if backend is None:
        return known[choose(op, device, dtype)].function
    if not isinstance(backend, str) or backend not in known:
        raise ValueError(f"{op}: backend: expected one of {', '.join(known)}, got {backend!r}")
    implementation = known[backend]
    if not implementation.is_available():
        here = ", ".join(backends(op)) or "none"
        raise ValueError(f"{op}: backend {backend!r} cannot run on this machine, which has {here}")
    if not implementation.supports(device, dtype):
        raise ValueError(f"{op}: backend {backend!r} does not take {dtype} on {device.type}")
    return implementation.function


@contextmanager
def instrumented(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the context, each implementation that is a function is replaced by wrap(op, implementation).
    Objects that an op has already made, such as a packed weight, stay as they are. For profiling."""
    with _restored():
        for op, known in _IMPLEMENTATIONS.items():
            for name, implementation in known.items():
                if not isinstance(implementation.function, type):
                    known[name] = replace(implementation, function=wrap(op, implementation.function))
        yield


@contextmanager
def without(op: str, backend: Backend) -> Iterator[None]:
    """Within the context, the op has no such implementation."""
    with _restored():
        _of(op).pop(backend, None)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    before = {op: dict(known) for op, known in _IMPLEMENTATIONS.items()}
    try:
        yield
    finally:
        _IMPLEMENTATIONS.clear()
        _IMPLEMENTATIONS.update(before)


def _wants_gradients(differentiated: tuple[torch.Tensor | None, ...]) -> bool:
    if not differentiated:
        return False
    import torch

    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in differentiated)


def _of(op: str) -> dict[str, Implementation]:
    try:
        return _IMPLEMENTATIONS[op]
    except KeyError:
        raise ValueError(f"op: expected one of {', '.join(ops())}, got {op!r}") from None


# --- what implementations say about themselves ----------------------------------------------------


@cache
def cpp_available() -> bool:
    return importlib.util.find_spec("antiphon.kernels._C") is not None


@cache
def cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


@cache
def cuda_library_available() -> bool:
    """Is there a GPU, and were the kernels of `csrc/cuda/` built, as they are where there is nvcc, for a
    driver like the one here?"""
    from antiphon.kernels.cuda import library

    return library.has_library() and cuda_available() and library.can_run()


def triton_interpreted() -> bool:
    """Do Triton kernels run in the interpreter, on CPU tensors? Slow, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def triton_available() -> bool:
    return importlib.util.find_spec("triton") is not None and (triton_interpreted() or cuda_available())


def on_cpu(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu"


def cpp_float32(device: torch.device, dtype: torch.dtype) -> bool:
    import torch

    return device.type == "cpu" and dtype == torch.float32


def on_cuda(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda"


def on_triton(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and triton_interpreted())


def on_triton_floats(device: torch.device, dtype: torch.dtype) -> bool:
    """For products and reductions, which accumulate in float32 and so are no use in float64."""
    import torch

    return on_triton(device, dtype) and dtype in (torch.float32, torch.bfloat16, torch.float16)
