"""Llama layers for training, with the tensor names of the released format.

A batch is rows of equal length behind one prefix that all rows share (the system message and what else every
prompt begins with): the prefix is computed once. What a position may look at is a mask, so that a row can
hold several conversations about one picture that do not see each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon_tiny.omni.attention import attend, once_cast
from antiphon_tiny.omni.geometry import Geometry

__all__ = ["Attention", "Layer", "Rotary", "Rows", "Stack", "rotate"]

Rotary = tuple[Tensor, Tensor]
"""cos and sin (..., tokens, head_dim)"""


@dataclass(frozen=True)
class Rows:
    """How a batch of rows (rows, length) sits behind its prefix."""

    rotary: Rotary
    """Of the rows' positions, (rows, 1, length, head_dim)."""
    prefix_rotary: Rotary
    """(1, 1, prefix, head_dim)"""
    mask: Tensor
    """bool (rows, 1, length, prefix + length), whether a position sees another."""


class Attention(nn.Module):
    def __init__(self, geometry: Geometry, kv_heads: int) -> None:
        super().__init__()
        g = geometry
        self.heads, self.kv_heads = g.heads, kv_heads
        self.q_proj = nn.Linear(g.hidden, g.heads * g.head_dim, bias=False)
        self.k_proj = nn.Linear(g.hidden, kv_heads * g.head_dim, bias=False)
        self.v_proj = nn.Linear(g.hidden, kv_heads * g.head_dim, bias=False)
        self.o_proj = nn.Linear(g.heads * g.head_dim, g.hidden, bias=False)

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        return rotate(self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), rotary)

    def entries(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Keys and values, one per query head"""
        k = rotate(self.k_proj(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2), rotary)
        v = self.v_proj(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        times = self.heads // self.kv_heads
        return k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)

    def out(self, y: Tensor) -> Tensor:
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(geometry.hidden, geometry.intermediate, bias=False)
        self.up_proj = nn.Linear(geometry.hidden, geometry.intermediate, bias=False)
        self.down_proj = nn.Linear(geometry.intermediate, geometry.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, geometry: Geometry, *, fusion: bool) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(geometry.hidden, eps=geometry.norm_eps)
        self.self_attn = Attention(geometry, geometry.kv_heads)
        if fusion:
            self.audio_text_attn = Attention(geometry, geometry.heads)
        self.post_attention_layernorm = nn.RMSNorm(geometry.hidden, eps=geometry.norm_eps)
        self.mlp = Mlp(geometry)

    def attend_prefix(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The prefix (1, length, hidden) after self-attention, with its keys and values"""
        y, attention = once_cast(self.input_layernorm(x)), self.self_attn
        k, v = attention.entries(y, rotary)
        y = attend(attention.queries(y, rotary), k, v, is_causal=True)
        return x + attention.out(y), (k, v)

    def attend(self, x: Tensor, prefix: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
        y, attention = once_cast(self.input_layernorm(x)), self.self_attn
        k, v = attention.entries(y, rows.rotary)
        k, v = (
            torch.cat([old.expand(len(x), -1, -1, -1), new], 2)
            for old, new in zip(prefix, (k, v), strict=True)
        )
        y = attend(attention.queries(y, rows.rotary), k, v, mask=rows.mask)
        return x + attention.out(y)

    def log_weights(self, x: Tensor, prefix: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
        """How the first head spreads its attention: logarithms (rows, length, prefix + length)"""
        y, attention = self.input_layernorm(x), self.self_attn
        with torch.autocast("cpu", enabled=False):
            q, (k, _) = attention.queries(y, rows.rotary)[:, 0], attention.entries(y, rows.rotary)
            k = torch.cat([prefix[0][:, 0].float().expand(len(x), -1, -1), k[:, 0]], 1)
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        out: Tensor = scores.masked_fill(~rows.mask[:, 0], -torch.inf).log_softmax(-1)
        return out

    def think(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(once_cast(self.post_attention_layernorm(x)))
        return out


class Stack(nn.ModuleList):
    """The layers of one stack, named 0, 1, ... as in the file."""

    def __init__(self, geometry: Geometry, num_layers: int, *, fusion: bool = False) -> None:
        super().__init__(Layer(geometry, fusion=fusion) for _ in range(num_layers))

    def run(
        self, prefix: Tensor, x: Tensor, rows: Rows, watched: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """prefix (1, prefix length, hidden), x (rows, length, hidden) -> both, after the layers

        watched: for these layers, `Layer.log_weights` is put there
        """
        for number, layer in enumerate(self):
            assert isinstance(layer, Layer), "a stack is made of layers"
            prefix, entries = layer.attend_prefix(prefix, rows.prefix_rotary)
            if watched is not None and number in watched:
                watched[number] = layer.log_weights(x, entries, rows)
            x = layer.think(layer.attend(x, entries, rows))
            prefix = layer.think(prefix)
        return prefix, x


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rotary_table(geometry: Geometry, num_positions: int) -> Tensor:
    """(2, positions, head_dim): cos and sin"""
    exponents = torch.arange(0, geometry.head_dim, 2, dtype=torch.float64) / geometry.head_dim
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float64), geometry.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()]).float()
