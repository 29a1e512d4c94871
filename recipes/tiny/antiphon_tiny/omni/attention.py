"""Attention in float32, whatever the matrix products around it are in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attend", "once_cast"]


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Softmax attention of (batch, heads, tokens, head_dim). On a CPU its gradient is slower in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        q, k, v = q.float(), k.float(), v.float()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)


def once_cast(x: Tensor) -> Tensor:
    """`x` as the matrix products will want it: otherwise autocast converts it anew for each of them."""
    return x.bfloat16() if torch.is_autocast_enabled("cpu") else x
