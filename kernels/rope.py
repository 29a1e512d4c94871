"""Rotary position embedding in the rotate-half form, with the frequency scaling of Llama 3.1.

Su et al. 2021 (arXiv 2104.09864); scaling as in Meta's Llama 3.1 release: the frequencies of long wavelengths
are divided by `factor`, those of short ones kept, those between blended.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check, check_integer, check_number, check_plain, check_range
from antiphon.kernels.precision import at_least_float32

__all__ = [
    "RopeScaling",
    "apply_rope",
    "as_cos_sin",
    "check_table",
    "inverse_frequencies",
    "rope_table",
    "rotated",
]


class RopeScaling(Protocol):
    """Llama 3.1 frequency scaling."""

    @property
    def factor(self) -> float: ...

    @property
    def low_freq_factor(self) -> float: ...

    @property
    def high_freq_factor(self) -> float: ...

    @property
    def original_max_position_embeddings(self) -> int: ...


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """float32 (head_dim / 2): radians per position. Raises ValueError for a bad `head_dim` or `theta`."""
    head_dim = check_integer("head_dim", head_dim, 1)
    theta = check_number("theta", theta, least=1e-30)
    frequencies = 1.0 / theta ** (
        torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
    )
    if scaling is None:
        return frequencies
    wavelength = 2 * math.pi / frequencies
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = torch.where(wavelength > original / low, frequencies / scaling.factor, frequencies)
    is_medium = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(is_medium, blended, scaled)


def rope_table(frequencies: Tensor, num_positions: int, device: torch.device | str = "cpu") -> Tensor:
    """float32 (num_positions, head_dim): cos of each frequency's angle, then sin.

    Raises ValueError naming the argument that does not fit.
    """
    check("frequencies", frequencies, FLOATS, ("head_dim / 2",))
    num_positions = check_integer("num_positions", num_positions, 0)
    return _table(torch.arange(num_positions, device=frequencies.device), frequencies).to(device)


def check_table(name: str, cos_sin: Tensor, head_dim: int, like: tuple[str, Tensor]) -> None:
    """A rotary table for heads of this size, which must be even."""
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"{like[0]}: expected head_dim even, 2 or more, got {head_dim}")
    check(name, cos_sin, FLOATS, ("positions", head_dim), like, contiguous=True)


def _table(positions: Tensor, frequencies: Tensor) -> Tensor:
    angles = positions.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def apply_rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """x (tokens, heads, head_dim) rotated by `positions` (tokens), rows of the table; in float32 or wider.

    positions: int32 or int64, in range where that can be seen without waiting for the device
    cos_sin: the table (positions, head_dim), see `rope_table`

    Raises ValueError naming the argument that does not fit.
    """
    check("x", x, FLOATS, ("tokens", "heads", "head_dim"))
    check("positions", positions, (torch.int32, torch.int64), x.shape[:1], ("x", x))
    check_table("cos_sin", cos_sin, x.shape[2], ("x", x))
    check_range("positions", positions, 0, len(cos_sin) - 1)
    return rotated(x, positions, cos_sin)


def rotated(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """`apply_rope` without the checks."""
    cos, sin = cos_sin[positions.long()].unsqueeze(1).chunk(2, dim=-1)
    a, b = at_least_float32(x).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def as_cos_sin(rope: object, num_positions: int, head_dim: int, at: Tensor | None = None) -> Tensor:
    """The table, from any of the forms that callers have: the table itself, (cos, sin), or frequencies.

    at: for frequencies, the positions (tokens) that the table's rows stand for, instead of 0 to
    num_positions - 1
    """
    if isinstance(rope, (tuple, list)) and len(rope) == 2 and all(isinstance(t, Tensor) for t in rope):
        cos, sin = rope
        check("rope: cos", cos, FLOATS, ("positions", "head_dim / 2 or head_dim"))
        check("rope: sin", sin, cos.dtype, cos.shape, ("cos", cos))
        table = torch.cat([cos[:, : head_dim // 2], sin[:, : head_dim // 2]], dim=-1)
    elif isinstance(rope, Tensor):
        check_plain("rope", rope)
        if rope.dtype not in FLOATS:
            raise ValueError(f"rope: expected floating point, got {rope.dtype}")
        if rope.dim() == 1:
            places = torch.arange(num_positions, device=rope.device) if at is None else at
            table = _table(places, rope.float())
        else:
            table = rope
    else:
        raise ValueError(
            "rope: expected a table (positions, head_dim) of cos then sin, a pair (cos, sin), or inverse "
            f"frequencies (head_dim / 2), got {type(rope).__name__}"
        )
    if table.dim() != 2 or table.shape[1] != head_dim:
        raise ValueError(f"rope: expected (positions, {head_dim}), got {tuple(table.shape)}")
    return at_least_float32(table)
