"""y = x W^T: the matrix product of decoding, where the weight is read once for a few rows.

On the CPU the weight is repacked into panels of 32 output features and read at memory speed; a row's
result does not depend on the other rows of its batch, to the last bit (csrc/cpu/linear.h). It is read in the
format in which it is given, float32, 16 or 8 bits, and widened to float32 in registers: x, the sums and the
result are float32, and the same to the last bit as of the widened weight. With a dynamic `QuantizedWeight`,
x comes in float32 and is quantized row by row; the sums are exact integers (csrc/cpu/int8_rows.h).

On a GPU, weights in floating point are multiplied by PyTorch, and int8 by Triton (kernels/triton/linear.py),
with x in 16 or 32 bits. There, too, rows of a dynamic weight are quantized each for itself, with exact sums.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.checks import FLOATS, address, check
from antiphon.kernels.huge_pages import WeightMemory, empty_weight
from antiphon.kernels.library_linear import LibraryLinear, LibraryWeight
from antiphon.kernels.quantized import (
    QuantizedWeight,
    check_quantized,
    quantized_bytes,
    quantized_linear_reference,
)
from antiphon.kernels.registry import cpp_available, on_triton, register, resolve, triton_available

__all__ = [
    "FORMATS",
    "CppLinear",
    "Linear",
    "PackedAddress",
    "TorchLinear",
    "TritonLinear",
    "check_linear",
    "linear",
    "linear_reference",
    "pack_panels",
    "quantized_weight",
    "widens",
    "with_dense_rows",
]

PANEL = 32
FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3, torch.uint8: 4}
"""The places of the panels' dtypes in the C++ kernels' `Format`. Of a dynamic weight, panels are uint8."""
GROUP, DEPTH = 4, 64
"""In panels of a dynamic weight, inputs lie side by side in groups, and are filled up to whole tiles."""
OFFSET = 128
"""How much larger whole numbers are in uint8."""

PackedAddress: TypeAlias = "tuple[int, int, int]"
"""For the C++ kernels: the addresses of the panels and of the scales (0: none), and the format."""


class Linear(Protocol):
    """A weight in the form that its backend reads best."""

    in_features: int
    out_features: int
    num_bytes: int

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (rows, in) -> (rows, out), plus `residual` (rows, out); neither argument is changed.

        Raises ValueError naming the argument that does not fit.
        """
        ...


def linear(
    weight: Tensor | QuantizedWeight | LibraryWeight,
    *,
    backend: str | None = None,
    memory: WeightMemory | None = None,
) -> Linear:
    """The product with `weight` (out, in). To save memory, the caller drops its own reference to the weight.

    memory: where the weight goes if it is repacked, beside those that are read before and after it; None: by
    itself.

    x is of the weight's dtype. On the CPU it may be float32 beside a weight of 16 bits, which is widened; the
    backend "cpp" takes only such x. With a `QuantizedWeight`, x is of float32 for "cpp", and of any floating
    dtype for "triton" and for "torch", which widens the weight at each call. A `LibraryWeight` is multiplied
    by its library.

    If the weight wants gradients, this is PyTorch's product. Raises ValueError naming the argument that does
    not fit.
    """
    if isinstance(weight, LibraryWeight):
        return LibraryLinear(weight)
    if isinstance(weight, QuantizedWeight):
        check_quantized("weight", weight)
        quantized: Linear = resolve("linear", backend, weight.values.device, torch.int8)(weight, memory)
        return quantized
    check("weight", weight, FLOATS, ("out", "in"), note=", neither of them 0")
    if 0 in weight.shape:
        raise ValueError(f"weight: expected (out, in), neither of them 0, got {tuple(weight.shape)}")
    product: Linear = resolve("linear", backend, weight.device, weight.dtype, weight)(weight, memory)
    return product


def _cpp_formats(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype in FORMATS


@register("linear", "cpp", is_available=cpp_available, supports=_cpp_formats)
class CppLinear:
    def __init__(self, weight: Tensor | QuantizedWeight, memory: WeightMemory | None = None) -> None:
        from antiphon.kernels import _C

        values, scales = weight, None
        if isinstance(weight, QuantizedWeight):
            values, scales = weight.values, weight.scales
        assert isinstance(values, Tensor)
        self.out_features, self.in_features = values.shape
        is_dynamic = isinstance(weight, QuantizedWeight) and weight.dynamic
        self.panels = pack_groups(values, memory) if is_dynamic else pack_panels(values, memory)
        self.num_bytes = self.panels.numel() * self.panels.element_size()
        self.scales = scales
        if scales is not None:
            self.scales = scales.new_zeros(len(self.panels) * PANEL)
            self.scales[: self.out_features] = scales
            self.num_bytes += self.scales.numel() * self.scales.element_size()
        self._linear = _C.linear

    @property
    def packed(self) -> PackedAddress:
        scales = 0 if self.scales is None else address(self.scales)
        return address(self.panels), scales, FORMATS[self.panels.dtype]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, torch.float32, self.panels)
        _check_no_gradients(x, residual)
        x = with_dense_rows(x)
        rows = x.shape[0]
        out = x.new_empty(rows, self.out_features)
        # The kernel takes its rows to be as far apart as those of `out`.
        residual = residual.contiguous() if residual is not None else None
        self._linear(
            address(x),
            self.packed,
            address(residual) if residual is not None else 0,
            address(out),
            rows,
            self.in_features,
            self.out_features,
            x.stride(0),
            self.out_features,
        )
        return out


def _triton_formats(device: torch.device, dtype: torch.dtype) -> bool:
    return on_triton(device, dtype) and dtype == torch.int8


@register("linear", "triton", is_available=triton_available, supports=_triton_formats)
class TritonLinear:
    """Of a `QuantizedWeight`, which stays as it is."""

    def __init__(self, weight: QuantizedWeight, memory: WeightMemory | None = None) -> None:
        self.out_features, self.in_features = weight.values.shape
        self.quantized = QuantizedWeight(
            weight.values.contiguous(), weight.scales.contiguous(), weight.dynamic
        )
        self.num_bytes = quantized_bytes(self.quantized)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, FLOATS, self.quantized.values)
        _check_no_gradients(x, residual)
        if x.dtype == torch.float64:
            return quantized_linear_reference(x, self.quantized, residual)
        from antiphon.kernels.triton.linear import linear as launch

        return launch(x, self.quantized, residual)

    def silu_mul(self, x: Tensor) -> Tensor:
        """silu_mul of the product, (rows, out / 2), in one launch. x, in 16 or 32 bits, is not checked."""
        from antiphon.kernels.triton.linear import silu_mul_linear

        return silu_mul_linear(x, self.quantized)


@register("linear", "torch")
def _torch_linear(weight: Tensor | QuantizedWeight, memory: WeightMemory | None = None) -> Linear:
    return TorchQuantizedLinear(weight) if isinstance(weight, QuantizedWeight) else TorchLinear(weight)


class TorchLinear:
    def __init__(self, weight: Tensor) -> None:
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.num_bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        weight = self.weight
        if widens(x, weight):
            weight = weight.float()
        _check(self, x, residual, weight.dtype, weight)
        return linear_reference(x, weight, residual)


class TorchQuantizedLinear:
    def __init__(self, weight: QuantizedWeight) -> None:
        self.out_features, self.in_features = weight.values.shape
        self.quantized = weight
        self.num_bytes = quantized_bytes(weight)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, FLOATS, self.quantized.values)
        return quantized_linear_reference(x, self.quantized, residual)


def quantized_weight(weight: Linear) -> QuantizedWeight | None:
    """The int8 weight (out, in), if the product is with that and not packed."""
    return weight.quantized if isinstance(weight, (TritonLinear, TorchQuantizedLinear)) else None


def linear_reference(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    y = F.linear(x, weight)
    return y if residual is None else residual + y


def widens(x: object, weight: object) -> bool:
    """Is it a weight of 16 bits that is widened for x of float32?"""
    return (
        isinstance(x, Tensor)
        and isinstance(weight, Tensor)
        and weight.dtype in (torch.bfloat16, torch.float16)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
    )


def pack_panels(weight: Tensor, memory: WeightMemory | None = None) -> Tensor:
    """(out, in) -> (ceil(out / 32), in, 32), with zeros after the last feature."""
    out_features, in_features = weight.shape
    panels = empty_weight((-(-out_features // PANEL), in_features, PANEL), weight.dtype, memory)
    full = out_features // PANEL
    panels[full:] = 0
    panels[:full] = weight[: full * PANEL].unflatten(0, (full, PANEL)).transpose(1, 2)
    if full * PANEL < out_features:
        panels[full, :, : out_features - full * PANEL] = weight[full * PANEL :].T
    return panels


def pack_groups(values: Tensor, memory: WeightMemory | None = None) -> Tensor:
    """int8 (out, in) -> uint8 (ceil(out / 32), ceil(in / 64) * 16, 32, 4), each number 128 larger"""
    out_features, in_features = values.shape
    groups = -(-in_features // DEPTH) * DEPTH // GROUP
    panels = empty_weight((-(-out_features // PANEL), groups, PANEL, GROUP), torch.uint8, memory)
    for panel, rows in zip(panels, values.split(PANEL), strict=True):
        filled = values.new_zeros(PANEL, groups * GROUP)
        filled[: len(rows), :in_features] = rows
        panel.copy_(filled.view(torch.uint8).unflatten(1, (groups, GROUP)).transpose(0, 1))
    return panels.bitwise_xor_(OFFSET)


def check_linear(name: str, weight: object) -> None:
    """A `Linear`, as `linear` makes it."""
    sizes = (getattr(weight, "in_features", None), getattr(weight, "out_features", None))
    if not callable(weight) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{name}: expected a Linear, as `linear` makes it, got {type(weight).__name__}")


def _check(
    weight: Linear,
    x: Tensor,
    residual: Tensor | None,
    dtype: torch.dtype | tuple[torch.dtype, ...],
    stored: Tensor,
) -> None:
    check("x", x, dtype, ("rows", weight.in_features), ("the weight", stored))
    if residual is not None:
        check("residual", residual, x.dtype, (len(x), weight.out_features), ("x", x))


def _check_no_gradients(x: Tensor, residual: Tensor | None) -> None:
    if torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad)):
        raise ValueError(
            "x, residual: expected no gradients, since a packed weight computes none: "
            "call it under torch.no_grad(), or make it with backend='torch'"
        )


def with_dense_rows(x: Tensor) -> Tensor:
    """The kernels take rows at any distance, but the numbers of a row must be adjacent."""
    return x if x.stride(1) == 1 else x.contiguous()
