"""y = x W^T: the matrix product of decoding, where the weight is read once for a few rows.

On the CPU the weight is repacked into panels of 32 output features and read at memory speed; a row's
result does not depend on the other rows of its batch, to the last bit (csrc/cpu/linear.h).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.checks import FLOATS, address, check
from antiphon.kernels.huge_pages import advise_huge_pages
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["Linear", "check_linear", "linear", "linear_reference", "pack_panels"]

PANEL = 32


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


def linear(weight: Tensor, *, backend: str | None = None) -> Linear:
    """The product with `weight` (out, in). To save memory, the caller drops its own reference to the weight.

    If the weight wants gradients, this is PyTorch's product. Raises ValueError naming the argument that does
    not fit.
    """
    check("weight", weight, FLOATS, ("out", "in"), note=", neither of them 0")
    if 0 in weight.shape:
        raise ValueError(f"weight: expected (out, in), neither of them 0, got {tuple(weight.shape)}")
    made: Linear = resolve("linear", backend, weight.device, weight.dtype, weight)(weight)
    return made


@register("linear", "cpp", is_available=cpp_available, supports=cpp_float32)
class CppLinear:
    def __init__(self, weight: Tensor) -> None:
        from antiphon.kernels import _C

        self.out_features, self.in_features = weight.shape
        self.panels = pack_panels(weight)
        self.num_bytes = self.panels.numel() * self.panels.element_size()
        self._linear = _C.linear

    @property
    def address(self) -> int:
        return self.panels.data_ptr()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, self.panels)
        if torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad)):
            raise ValueError(
                "x, residual: expected no gradients, since a packed weight computes none: "
                "call it under torch.no_grad(), or make it with backend='torch'"
            )
        x = with_dense_rows(x)
        rows = x.shape[0]
        out = x.new_empty(rows, self.out_features)
        # The kernel takes its rows to be as far apart as those of `out`.
        residual = residual.contiguous() if residual is not None else None
        self._linear(
            address(x),
            self.panels.data_ptr(),
            address(residual) if residual is not None else 0,
            address(out),
            rows,
            self.in_features,
            self.out_features,
            x.stride(0),
            self.out_features,
        )
        return out


@register("linear", "torch")
class TorchLinear:
    def __init__(self, weight: Tensor) -> None:
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.num_bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, self.weight)
        return linear_reference(x, self.weight, residual)


def linear_reference(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    y = F.linear(x, weight)
    return y if residual is None else residual + y


def pack_panels(weight: Tensor) -> Tensor:
    """(out, in) -> (ceil(out / 32), in, 32), with zeros after the last feature."""
    out_features, in_features = weight.shape
    panels = weight.new_empty(-(-out_features // PANEL), in_features, PANEL)
    advise_huge_pages(panels)
    full = out_features // PANEL
    panels[full:] = 0
    panels[:full] = weight[: full * PANEL].unflatten(0, (full, PANEL)).transpose(1, 2)
    if full * PANEL < out_features:
        panels[full, :, : out_features - full * PANEL] = weight[full * PANEL :].T
    return panels


def check_linear(name: str, weight: object) -> None:
    """A `Linear`, as `linear` makes it."""
    sizes = (getattr(weight, "in_features", None), getattr(weight, "out_features", None))
    if not callable(weight) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{name}: expected a Linear, as `linear` makes it, got {type(weight).__name__}")


def _check(weight: Linear, x: Tensor, residual: Tensor | None, packed: Tensor) -> None:
    check("x", x, packed.dtype, ("rows", weight.in_features), ("the weight", packed))
    if residual is not None:
        check("residual", residual, packed.dtype, (len(x), weight.out_features), ("x", x))


def with_dense_rows(x: Tensor) -> Tensor:
    """The kernels take rows at any distance, but the numbers of a row must be adjacent."""
    return x if x.stride(1) == 1 else x.contiguous()
