"""Rotary position embedding in the rotate-half form, with the frequency scaling of Llama 3.1.

Su et al. 2021 (arXiv 2104.09864); scaling as in Meta's Llama 3.1 release: long wavelengths are
divided by `factor`, short ones kept, those between blended.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antiphon.config import RopeScaling
from antiphon.kernels.precision import at_least_float32

__all__ = ["apply_rope", "as_cos_sin", "inverse_frequencies", "rope_table"]


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """float32 (head_dim / 2): radians per position."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
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
    """float32 (num_positions, head_dim): cos of each frequency's angle, then sin."""
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(device)


def apply_rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """x (tokens, heads, head_dim) rotated by `positions` (tokens); computed in float32 or wider."""
    cos, sin = cos_sin[positions.long()].unsqueeze(1).chunk(2, dim=-1)
    a, b = at_least_float32(x).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def as_cos_sin(rope: object, num_positions: int, head_dim: int) -> Tensor:
    """The table from any of the forms that callers have: the table itself, (cos, sin), or frequencies."""
    if isinstance(rope, (tuple, list)) and len(rope) == 2 and all(isinstance(t, Tensor) for t in rope):
        cos, sin = (t[..., : head_dim // 2] for t in rope)
        table = torch.cat([cos, sin], dim=-1)
    elif isinstance(rope, Tensor) and rope.dim() == 1:
        table = rope_table(rope.float().cpu(), num_positions, rope.device)
    elif isinstance(rope, Tensor):
        table = rope
    else:
        raise ValueError(
            "rope: expected a table (positions, head_dim) of cos then sin, a pair (cos, sin), or inverse "
            f"frequencies (head_dim / 2), got {type(rope).__name__}"
        )
    if table.dim() != 2 or table.shape[1] != head_dim:
        raise ValueError(f"rope: expected (positions, {head_dim}), got {tuple(table.shape)}")
    return at_least_float32(table)
