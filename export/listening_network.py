"""The bottom speech layers with the CTC head as a module that can be exported: the function of
`OmniModel.hear` and `ctc_labels` (Stream-Omni, arXiv 2506.13642), for whole sequences.

Attention is a product, a softmax and a product, and causal: a token sees itself and those before it. Products
are taken in float32 or float16; norms, rotations, softmax, activations and the residual stream stay float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.config import ModelConfig
from antiphon.export.estimator import HIDDEN
from antiphon.kernels.rope import inverse_frequencies
from antiphon.model.weights import LayerMatrix, LayerWeights, OmniWeights

__all__ = ["ListeningNetwork"]

NO_LABEL = -1


class ListeningNetwork(nn.Module):
    """CTC labels and log-probabilities of text and unit ids, for a ragged batch; a row comes out as it would
    alone."""

    frequencies: Tensor

    def __init__(self, weights: OmniWeights, config: ModelConfig, dtype: torch.dtype) -> None:
        """dtype: that of the products. Weights are copied."""
        super().__init__()
        self.dtype = dtype
        self.embedding = _constant(_plain(weights.audio_embed_tokens), dtype)
        self.layers = nn.ModuleList(_Layer(layer, config, dtype) for layer in weights.bottom_layers)
        self.norm = _constant(weights.audio_norm)
        self.head = _constant(_plain(weights.audio_to_text_proj), dtype)
        self.eps = config.rms_norm_eps
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids: (batch, tokens) int64, any number on padding; mask: (batch, tokens) float32, 1 on valid
        tokens, which come first, and 0 on padding.

        Returns labels (batch, tokens) int64, -1 on padding, and their log-probabilities (batch, tokens,
        text_vocab) float32, 0 on padding.
        """
        valid = mask > 0
        x = F.embedding(torch.where(valid, ids, 0), self.embedding).float()
        positions = torch.arange(ids.shape[1], device=ids.device).float()
        angles = positions[:, None] * self.frequencies
        later = (positions[None, :] > positions[:, None]).float()
        hidden = (later + (1 - mask)[:, None, None]) * HIDDEN
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), hidden)
        x = _rms_norm(x, self.norm, self.eps).to(self.dtype)
        logits = F.linear(x, self.head).float()
        labels = torch.where(valid, logits.argmax(-1), NO_LABEL)
        return labels, torch.log_softmax(logits, dim=-1) * mask[:, :, None]


class _Layer(nn.Module):
    def __init__(self, weights: LayerWeights, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.sizes = [config.q_size, config.kv_size, config.kv_size]
        self.input_norm, self.post_norm = _constant(weights.input_norm), _constant(weights.post_norm)
        self.qkv, self.o = _constant(_plain(weights.qkv), dtype), _constant(_plain(weights.o), dtype)
        self.gate_up = _constant(_plain(weights.gate_up), dtype)
        self.down = _constant(_plain(weights.down), dtype)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, hidden: Tensor) -> Tensor:
        x = x + self._attention(_rms_norm(x, self.input_norm, self.eps), cos, sin, hidden)
        gate, up = self._product(_rms_norm(x, self.post_norm, self.eps), self.gate_up).chunk(2, dim=-1)
        return x + self._product(F.silu(gate) * up, self.down)

    def _attention(self, x: Tensor, cos: Tensor, sin: Tensor, hidden: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            part.reshape(batch, tokens, -1, self.head_dim).transpose(1, 2)
            for part in self._product(x, self.qkv).split(self.sizes, dim=-1)
        )
        group = q.shape[1] // k.shape[1]
        q, k = _rotated(q, cos, sin) * self.head_dim**-0.5, _rotated(k, cos, sin)
        k, v = (
            part[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2).to(self.dtype) for part in (k, v)
        )
        scores = q.to(self.dtype) @ k.transpose(2, 3)
        shares = torch.softmax(scores.float() + hidden, dim=-1).to(self.dtype)
        return self._product((shares @ v).transpose(1, 2).flatten(2), self.o)

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x.to(self.dtype), weight).float()


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: (batch, heads, tokens, head_dim); cos, sin: (tokens, head_dim / 2)"""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _plain(matrix: LayerMatrix) -> Tensor:
    assert isinstance(matrix, Tensor), "int8 is refused where a checkpoint is read"
    return matrix


def _constant(tensor: Tensor, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(tensor.to(dtype), requires_grad=False)
