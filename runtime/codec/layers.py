"""What the flow's networks share: padding masks and operations that see valid frames only.

A ragged batch is padded to its longest row. Every operation that mixes frames then leaves the padding
out, so that a row comes out as it would alone. Without padding the mask is None and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.kernels.masked_group_norm import group_norm_reference

__all__ = ["attend", "frame_mask", "group_norm", "masked", "pad_rows", "split_heads"]


def frame_mask(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """(batch, 1, longest) float32, 1 on valid frames and 0 on padding; None where nothing is padded."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    frames = torch.arange(longest, device=device)
    return (frames < torch.tensor(lengths, device=device)[:, None])[:, None].float()


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` (batch, channels, frames) with zeros on the padding."""
    return x if mask is None else x * mask


def pad_rows(rows: Sequence[Tensor]) -> Tensor:
    """Joins tensors (channels, frames_i) into (batch, channels, longest), zeros behind each."""
    longest = max(row.shape[-1] for row in rows)
    if all(row.shape[-1] == longest for row in rows):
        return torch.stack(list(rows))
    return torch.stack([F.pad(row, (0, longest - row.shape[-1])) for row in rows])


def group_norm(x: Tensor, norm: nn.GroupNorm, mask: Tensor | None) -> Tensor:
    """Group normalisation of `x` (batch, channels, frames), mean and biased variance over valid frames."""
    return group_norm_reference(x, norm.weight, norm.bias, norm.num_groups, norm.eps, mask)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, frames, num_heads * head_dim) to (batch, num_heads, frames, head_dim)"""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention over all valid frames, scale 1 / sqrt(head_dim).

    q, k, v: (batch, frames, num_heads * head_dim), heads in contiguous slices; the result likewise.
    """
    q, k, v = (split_heads(part, num_heads) for part in (q, k, v))
    keys = None if mask is None else mask[:, None].bool()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)
