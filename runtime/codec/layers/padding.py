"""Ragged batches: padding masks, and operations that see only valid frames.

A ragged batch is padded to its longest row. Every operation that mixes frames leaves out the padding, so each
row comes out as it would alone. Without padding, the mask is None and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.kernels.masked_group_norm import group_norm_reference

__all__ = ["frame_mask", "group_norm", "masked", "pad_rows"]


def frame_mask(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """(batch, 1, longest) float32, 1 on valid frames and 0 on padding; None if nothing is padded."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    frames = torch.arange(longest, device=device)
    return (frames < torch.tensor(lengths, device=device)[:, None])[:, None].float()


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with zeros on the padding, in its own dtype.

    (batch, channels, frames) with a mask (batch, 1, frames), or (batch, frames, channels) with a mask
    (batch, frames, 1).
    """
    return x if mask is None else x * mask.to(x.dtype)


def pad_rows(rows: Sequence[Tensor]) -> Tensor:
    """Joins tensors (channels, frames_i) into (batch, channels, longest), with zeros after shorter ones."""
    longest = max(row.shape[-1] for row in rows)
    if all(row.shape[-1] == longest for row in rows):
        return torch.stack(list(rows))
    return torch.stack([F.pad(row, (0, longest - row.shape[-1])) for row in rows])


def group_norm(x: Tensor, norm: nn.GroupNorm, mask: Tensor | None) -> Tensor:
    """Group normalisation of `x` (batch, channels, frames), mean and biased variance over valid frames."""
    return group_norm_reference(x, norm.weight, norm.bias, norm.num_groups, norm.eps, mask)
