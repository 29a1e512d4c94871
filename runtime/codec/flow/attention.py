"""Attention heads of the flow's networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "split_heads"]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, frames, num_heads * head_dim) to (batch, num_heads, frames, head_dim)"""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention over all valid frames, scale 1 / sqrt(head_dim).

    q, k, v and the result: (batch, frames, num_heads * head_dim), each head a contiguous slice.
    mask: (batch, 1, frames), see `frame_mask`.
    """
    q, k, v = (split_heads(part, num_heads) for part in (q, k, v))
    keys = None if mask is None else mask[:, None].bool()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)
