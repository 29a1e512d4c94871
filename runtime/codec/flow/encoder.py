"""The flow's unit encoder: a Conformer without convolution (CosyVoice's `ConformerEncoder`), with the
relative positions of Transformer-XL (arXiv 1901.02860, section 3.3). Module names are the checkpoint's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import EncoderParams
from antiphon.codec.flow.attention import split_heads
from antiphon.codec.stopping import stop_point

__all__ = ["Encoder"]

QUERY_BLOCK = 512
"""Queries that attend at a time. Bounds the memory of the position term, which is (queries, keys)."""


class RelativeAttention(nn.Module):
    """a[i, j] = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(head_dim), over all valid j."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(channels, channels)
        self.linear_k = nn.Linear(channels, channels)
        self.linear_v = nn.Linear(channels, channels)
        self.linear_out = nn.Linear(channels, channels)
        self.linear_pos = nn.Linear(channels, channels, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, channels // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, channels // num_heads))

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, n, channels); table: (2n - 1, channels); mask: (batch, 1, n) or None."""
        n = x.shape[1]
        q, k, v = (
            split_heads(linear(x), self.num_heads) for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        positions = split_heads(self.linear_pos(table)[None], self.num_heads)[0]
        content_q = q + self.pos_bias_u[:, None]
        position_q = q + self.pos_bias_v[:, None]
        padding = None if mask is None else mask[:, None] == 0
        scale = 1 / math.sqrt(q.shape[-1])
        blocks = []
        for start in range(0, n, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, n)
            # Row i of the table's product holds relative position r = i - j in column n - 1 - r. These
            # queries meet columns n - end .. 2n - 2 - start, and each row begins one column earlier
            # than the row above: a view with a row stride of one less lines the keys up.
            products = position_q[:, :, start:end] @ positions[:, n - end : 2 * n - 1 - start].mT
            rows, columns = products.shape[2:]
            bias = products.as_strided(
                (*products.shape[:2], rows, n),
                (*products.stride()[:2], columns - 1, 1),
                products.storage_offset() + rows - 1,
            )
            bias = bias * scale
            if padding is not None:
                bias = bias.masked_fill(padding, float("-inf"))
            blocks.append(F.scaled_dot_product_attention(content_q[:, :, start:end], k, v, bias, scale=scale))
        out: Tensor = self.linear_out(torch.cat(blocks, dim=2).transpose(1, 2).flatten(2))
        return out


class EncoderFeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(channels, hidden)
        self.w_2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class EncoderLayer(nn.Module):
    def __init__(self, params: EncoderParams) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(params.output_size, params.attention_heads)
        self.feed_forward = EncoderFeedForward(params.output_size, params.linear_units)
        self.norm_ff = nn.LayerNorm(params.output_size)
        self.norm_mha = nn.LayerNorm(params.output_size)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), table, mask)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class Encoder(nn.Module):
    """(batch, n, input_size) embedded units to (batch, n, output_size), full context."""

    def __init__(self, params: EncoderParams) -> None:
        super().__init__()
        out = nn.Sequential(
            nn.Linear(params.input_size, params.output_size), nn.LayerNorm(params.output_size)
        )
        self.embed = nn.ModuleDict({"out": out})
        self.encoders = nn.ModuleList(EncoderLayer(params) for _ in range(params.num_blocks))
        self.after_norm = nn.LayerNorm(params.output_size)
        self.channels = params.output_size

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (batch, 1, n) of 0 and 1; None: all valid."""
        x = self.embed["out"](x) * math.sqrt(self.channels)
        table = position_table(x.shape[1], self.channels, x.device)
        for layer in self.encoders:
            stop_point()
            x = layer(x, table, mask)
        out: Tensor = self.after_norm(x)
        return out


def position_table(n: int, channels: int, device: torch.device) -> Tensor:
    """(2n - 1, channels): row k is relative position r = n - 1 - k; column 2c is sin(r w_c), 2c + 1 is
    cos(r w_c), with w_c = 10000^(-2c / channels)."""
    relative = torch.arange(n - 1, -n, -1, dtype=torch.float32, device=device)[:, None]
    frequencies = torch.exp(
        torch.arange(0, channels, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / channels)
    )
    angles = relative * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
