"""The vision tower and the projector as a module that can be exported: the function of
`model.vision.image_features` (SigLIP, arXiv 2303.15343), from pixels to what the LLM reads.

Attention is a product, a softmax and a product. Products are taken in float32 or float16; norms, softmax,
activations and the residual stream stay float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.config import VisionConfig
from antiphon.model.weights import ProjectorWeights, VisionLayerWeights, VisionWeights

__all__ = ["VisionNetwork", "pixels_of"]


def pixels_of(tiles: Tensor) -> Tensor:
    """uint8 (tiles, size, size, 3) to what the network takes: float32 (tiles, 3, size, size), -1 to 1."""
    return ((tiles.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()


class VisionNetwork(nn.Module):
    """Embeddings of tiles, for any number of them; a tile comes out as it would alone."""

    def __init__(
        self, tower: VisionWeights, projector: ProjectorWeights, config: VisionConfig, dtype: torch.dtype
    ) -> None:
        """dtype: that of the products. Weights are copied."""
        super().__init__()
        self.dtype = dtype
        self.patches = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, config.patch_size
        )
        _fill(self.patches, tower.patch_embedding, tower.patch_embedding_bias, dtype)
        self.positions = nn.Parameter(tower.position_embedding.clone(), requires_grad=False)
        self.layers = nn.ModuleList(_Layer(layer, config, dtype) for layer in tower.layers)
        self.fc1 = _linear(projector.fc1, projector.fc1_bias, dtype)
        self.fc2 = _linear(projector.fc2, projector.fc2_bias, dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (tiles, channels, size, size) float32, -1 to 1. Returns (tiles, side * side, hidden)
        float32: what the LLM reads, row by row of each tile."""
        x = _product(self.patches, pixels, self.dtype).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = F.gelu(_product(self.fc1, x, self.dtype))
        return _product(self.fc2, x, self.dtype)


class _Layer(nn.Module):
    def __init__(self, weights: VisionLayerWeights, config: VisionConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.num_heads = dtype, config.num_attention_heads
        self.norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        _fill(self.norm1, weights.norm1, weights.norm1_bias, torch.float32)
        _fill(self.norm2, weights.norm2, weights.norm2_bias, torch.float32)
        self.qkv = _linear(weights.qkv, weights.qkv_bias, dtype)
        self.out = _linear(weights.out, weights.out_bias, dtype)
        self.fc1 = _linear(weights.fc1, weights.fc1_bias, dtype)
        self.fc2 = _linear(weights.fc2, weights.fc2_bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.norm1(x))
        y = F.gelu(_product(self.fc1, self.norm2(x), self.dtype), approximate="tanh")
        return x + _product(self.fc2, y, self.dtype)

    def _attention(self, x: Tensor) -> Tensor:
        tiles, features, hidden = x.shape
        q, k, v = (
            part.reshape(tiles, features, self.num_heads, -1).transpose(1, 2)
            for part in _product(self.qkv, x, self.dtype).chunk(3, dim=-1)
        )
        scores = (q * (hidden // self.num_heads) ** -0.5).to(self.dtype) @ k.to(self.dtype).transpose(2, 3)
        shares = torch.softmax(scores.float(), dim=-1).to(self.dtype)
        return _product(self.out, (shares @ v.to(self.dtype)).transpose(1, 2).flatten(2), self.dtype)


def _product(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    out: Tensor = layer(x.to(dtype))
    return out.float()


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    _fill(layer, weight, bias, dtype)
    return layer


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    layer.weight = nn.Parameter(weight.to(dtype, copy=True), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
