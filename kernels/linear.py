"""y = x W^T: the matrix product of decoding, where the weight is read once for a few rows.

On the CPU the weight is repacked into panels of 32 output features and read at memory speed; a row's
result does not depend on the other rows of its batch, to the last bit (csrc/cpu/linear.h).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.huge_pages import advise_huge_pages
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["Linear", "linear", "linear_reference", "pack_panels"]

PANEL = 32


class Linear(Protocol):
    """A weight in the form that its backend reads best."""

    in_features: int
    out_features: int
    num_bytes: int

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (rows, in) -> (rows, out), plus `residual` (rows, out), which may be overwritten by the result.

        Raises ValueError naming the argument that does not fit.
        """
        ...


def linear(weight: Tensor, *, backend: str | None = None) -> Linear:
    """The product with `weight` (out, in). The caller drops its own reference to save the memory."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"weight: expected (out, in), none of them 0, got {tuple(weight.shape)}")
    made: Linear = resolve("linear", backend, weight.device, weight.dtype)(weight)
    return made


@register("linear", "cpp", is_available=cpp_available, supports=cpp_float32)
class CppLinear:
    def __init__(self, weight: Tensor) -> None:
        from antiphon import _C

        self.out_features, self.in_features = weight.shape
        self.panels = pack_panels(weight)
        self.num_bytes = self.panels.numel() * self.panels.element_size()
        self._linear = _C.linear

    @property
    def address(self) -> int:
        return self.panels.data_ptr()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, self.panels.dtype)
        x = with_dense_rows(x)
        rows = x.shape[0]
        out = with_dense_rows(residual) if residual is not None else x.new_empty(rows, self.out_features)
        self._linear(
            x.data_ptr(),
            self.panels.data_ptr(),
            out.data_ptr() if residual is not None else 0,
            out.data_ptr(),
            rows,
            self.in_features,
            self.out_features,
            x.stride(0),
            out.stride(0),
        )
        return out


@register("linear", "torch")
class TorchLinear:
    def __init__(self, weight: Tensor) -> None:
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.num_bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        _check(self, x, residual, self.weight.dtype)
        return linear_reference(x, self.weight, residual)


def linear_reference(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    y = F.linear(x, weight)
    return y if residual is None else residual + y


def pack_panels(weight: Tensor) -> Tensor:
    """(out, in) -> (ceil(out / 32), in, 32), zeros behind the last feature."""
    out_features, in_features = weight.shape
    panels = weight.new_empty(-(-out_features // PANEL), in_features, PANEL)
    advise_huge_pages(panels)
    full = out_features // PANEL
    panels[full:] = 0
    panels[:full] = weight[: full * PANEL].unflatten(0, (full, PANEL)).transpose(1, 2)
    if full * PANEL < out_features:
        panels[full, :, : out_features - full * PANEL] = weight[full * PANEL :].T
    return panels


def _check(weight: Linear, x: Tensor, residual: Tensor | None, dtype: torch.dtype) -> None:
    if x.dim() != 2 or x.shape[1] != weight.in_features or x.dtype != dtype:
        raise ValueError(f"x: expected {dtype} (rows, {weight.in_features}), got {x.dtype} {tuple(x.shape)}")
    if residual is None:
        return
    if residual.shape != (len(x), weight.out_features) or residual.dtype != dtype:
        raise ValueError(
            f"residual: expected {dtype} ({len(x)}, {weight.out_features}), "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )


def with_dense_rows(x: Tensor) -> Tensor:
    """The kernels take any distance between rows, but none between the numbers of a row."""
    return x if x.stride(1) == 1 else x.contiguous()
