"""The layers of a Stream-Omni checkpoint (arXiv 2506.13642) in float64, one request at a time.

Llama layers, and fusion attention in the top ones, over the tensors of the file by their released names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Layers", "Stack"]


class Layers:
    """The operations that layers are made of; weights are named by their tensor without `.weight`."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config = config
        self.weights = weights
        self.head_dim: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.frequencies = frequencies(config, self.head_dim)
        self.window: int = config.get("fusion_window", 5)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T

    def heads(self, name: str, x: Tensor) -> Tensor:
        """(positions, heads, head_dim)"""
        return self.linear(name, x).view(len(x), -1, self.head_dim)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean_square = x.square().mean(-1, keepdim=True)
        return x / torch.sqrt(mean_square + self.config["rms_norm_eps"]) * self.weights[name + ".weight"]

    def rotated(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        angles = torch.tensor(list(positions), dtype=torch.float64)[:, None] * self.frequencies
        cos, sin = (f(torch.cat([angles, angles], dim=1))[:, None] for f in (torch.cos, torch.sin))
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class Stack:
    """A run of Llama layers with the keys and values of one request."""

    def __init__(self, model: Layers, name: str, num_layers: int) -> None:
        self.model = model
        self.layers = [f"model.{name}.{i}." for i in range(num_layers)]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.num_positions = 0

    def run(self, x: Tensor, fusion_ids: Sequence[int] = ()) -> Tensor:
        """x (positions, hidden), which follow those run before. Only the last position receives fusion."""
        m = self.model
        positions = range(self.num_positions, self.num_positions + len(x))
        self.num_positions += len(x)
        assert self.num_positions <= m.config["max_position_embeddings"], "this does not end"
        for i, layer in enumerate(self.layers):
            y = m.norm(layer + "input_layernorm", x)
            q = m.rotated(m.heads(layer + "self_attn.q_proj", y), positions)
            k = m.rotated(m.heads(layer + "self_attn.k_proj", y), positions)
            v = m.heads(layer + "self_attn.v_proj", y)
            if i == len(self.keys):
                self.keys.append(k[:0])
                self.values.append(v[:0])
            self.keys[i] = torch.cat([self.keys[i], k])
            self.values[i] = torch.cat([self.values[i], v])
            x = x + m.linear(
                layer + "self_attn.o_proj", attention(q, self.keys[i], self.values[i], causal=True)
            )
            if fusion_ids:
                x = torch.cat([x[:-1], x[-1:] + self.fusion(layer, x[-1:], positions[-1], fusion_ids)])
            y = m.norm(layer + "post_attention_layernorm", x)
            y = F.silu(m.linear(layer + "mlp.gate_proj", y)) * m.linear(layer + "mlp.up_proj", y)
            x = x + m.linear(layer + "mlp.down_proj", y)
        return x

    def fusion(self, layer: str, x: Tensor, position: int, fusion_ids: Sequence[int]) -> Tensor:
        m = self.model
        first = max(0, len(fusion_ids) - m.window)
        text = m.weights["text_to_audio_proj.weight"][list(fusion_ids[first:])]
        name = layer + "audio_text_attn."
        q = m.rotated(m.heads(name + "q_proj", x), [position])
        k = m.rotated(m.heads(name + "k_proj", text), range(first, len(fusion_ids)))
        v = m.heads(name + "v_proj", text)
        return m.linear(name + "o_proj", attention(q, k, v, causal=False))


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """q (n, heads, d), k and v (m, kv heads, d) -> (n, heads * d); queries are the last of m positions."""
    n, heads, d = q.shape
    k, v = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(d)
    if causal:
        later = torch.ones(n, len(k)).triu(len(k) - n + 1).bool()
        scores = scores.masked_fill(later, -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(n, heads * d)


def frequencies(config: dict[str, Any], head_dim: int) -> Tensor:
    """Radians per position (head_dim / 2), with the scaling of Llama 3.1 if the config has one."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = config.get("rope_theta") or scaling["rope_theta"]
    found = []
    for i in range(0, head_dim, 2):
        frequency = theta ** (-i / head_dim)
        if scaling.get("rope_type") == "llama3":
            turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
            low, high, factor = (scaling[name] for name in ("low_freq_factor", "high_freq_factor", "factor"))
            if turns < low:
                frequency /= factor
            elif turns <= high:
                smooth = (turns - low) / (high - low)
                frequency *= smooth + (1 - smooth) / factor
        found.append(frequency)
    return torch.tensor(found, dtype=torch.float64)
