"""The ways in which an engine's weights are quantized."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INT8", "INT8_WEIGHT_ONLY", "SCHEMES", "Scheme"]


@dataclass(frozen=True)
class Scheme:
    """The matrices of all layers, the heads and the tables in int8, symmetric, with a scale for each row."""

    name: str
    is_dynamic: bool
    """Whether the rows that a matrix multiplies are quantized as they come, see
    `antiphon.kernels.quantize_rows`."""


INT8 = Scheme("int8", is_dynamic=True)
INT8_WEIGHT_ONLY = Scheme("int8-weight-only", is_dynamic=False)
SCHEMES = {scheme.name: scheme for scheme in (INT8, INT8_WEIGHT_ONLY)}
