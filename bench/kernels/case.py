"""What a benchmark of an op says about one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from antiphon.bench.sizes import Sizes
from antiphon.kernels import QuantizedWeight, quantize_int8

__all__ = ["WEIGHTS", "Case", "Cases", "Setting", "stored_weight", "weight_backend", "weight_bytes"]

WEIGHTS = ("float32", "bfloat16", "float16", "int8-weight-only", "int8")
"""The formats of weights that products take on a CPU; with int8, rows are quantized, too"""


@dataclass(frozen=True)
class Setting:
    """Where and on what the cases of a run are computed."""

    sizes: Sizes
    dtype: torch.dtype
    device: torch.device

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def weights(self) -> tuple[str, ...]:
        """The formats of weights to measure: that of the run, and on a CPU those that are widened."""
        is_widened = self.device.type == "cpu" and self.dtype == torch.float32
        return WEIGHTS if is_widened else (str(self.dtype).removeprefix("torch."),)

    def randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, device=self.device).mul_(scale).to(self.dtype)

    def randint(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, device=self.device, dtype=dtype)

    def arange(self, *bounds: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.arange(*bounds, device=self.device, dtype=dtype)


@dataclass(frozen=True)
class Case:
    shape: str
    """As a reader would write it, like "16 x 4096" """
    num_bytes: int
    """Those that must be read or written at least, each once"""
    num_ops: int
    """Multiplications and additions of matrix products; 0 where there are none to speak of"""
    inputs: Callable[[str], tuple[Any, ...]]
    """Makes inputs for a backend"""
    call: Callable[..., object]
    """call(*inputs, backend=name)"""
    reference: Callable[..., object] | None = None
    """reference(*inputs of the backend torch): what torch.compile is given"""
    others: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    """Other ways to compute it, by name: way(*inputs of the backend torch)"""
    refused_by: frozenset[str] = frozenset()
    """Backends that do not take this shape"""
    waits: bool = False
    """It waits for the device, for the size of its result"""


Cases = Callable[[Setting], Iterator[Case]]
"""What each file of this folder has as `cases`"""


def stored_weight(weight: Tensor, stored: str) -> Tensor | QuantizedWeight:
    """A weight in one of the formats that `Setting.weights` names."""
    if stored.startswith("int8"):
        return quantize_int8(weight, dynamic=stored == "int8")
    return weight.to(getattr(torch, stored))


def weight_bytes(stored: str, outputs: int, inputs: int) -> int:
    """Those of a matrix, the scales of its outputs included."""
    if stored.startswith("int8"):
        return outputs * (inputs + 4)
    itemsize: int = getattr(torch, stored).itemsize
    return outputs * inputs * itemsize


def weight_backend(backend: str) -> str:
    """The backend of the weights that a backend of an op takes: only C++ packs them."""
    return backend if backend == "cpp" else "torch"
