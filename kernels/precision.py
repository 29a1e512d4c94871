"""The precision of the references where 16 bits are too few."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays, so that a reference can be measured against itself in float64."""
    return x if x.dtype == torch.float64 else x.float()
