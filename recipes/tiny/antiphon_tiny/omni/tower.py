"""The vision tower and its projector, with the tensor names of the released format."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon_tiny.omni.attention import attend
from antiphon_tiny.omni.geometry import Geometry

__all__ = ["Reader", "Tower", "projector"]


class Embeddings(nn.Module):
    patch_embedding: nn.Conv2d
    position_embedding: nn.Embedding


class Encoder(nn.Module):
    layers: nn.ModuleList


class VisionModel(nn.Module):
    embeddings: Embeddings
    encoder: Encoder


class SelfAttention(nn.Module):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear


class Mlp(nn.Module):
    fc1: nn.Linear
    fc2: nn.Linear


class Tower(nn.Module):
    """SigLIP: patches and learned positions, pre-norm layers, no post-norm on what comes out."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        g = geometry
        embeddings = Embeddings()
        embeddings.patch_embedding = nn.Conv2d(3, g.tower_hidden, g.patch, stride=g.patch)
        embeddings.position_embedding = nn.Embedding(g.side**2, g.tower_hidden)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.02)
        encoder = Encoder()
        encoder.layers = nn.ModuleList(EncoderLayer(g) for _ in range(g.tower_layers))
        self.vision_model = VisionModel()
        self.vision_model.embeddings = embeddings
        self.vision_model.encoder = encoder

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 (pictures, size, size, 3) -> (pictures, side * side, tower hidden)"""
        model = self.vision_model
        x = self._patches(tiles)
        x = x + model.embeddings.position_embedding.weight
        for layer in model.encoder.layers:
            x = layer(x)
        return x

    def _patches(self, tiles: Tensor) -> Tensor:
        """The patch embedding as a matrix product, whose gradient is faster on a CPU than a convolution's."""
        conv = self.vision_model.embeddings.patch_embedding
        pixels = (tiles.float() / 255 - 0.5) / 0.5
        size = conv.kernel_size[0]
        pixels = pixels.unflatten(2, (-1, size)).unflatten(1, (-1, size)).permute(0, 1, 3, 5, 2, 4)
        return F.linear(pixels.flatten(3).flatten(1, 2), conv.weight.flatten(1), conv.bias)


class EncoderLayer(nn.Module):
    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        hidden = geometry.tower_hidden
        self.heads = geometry.tower_heads
        self.layer_norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.layer_norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.self_attn = SelfAttention()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(hidden, hidden))
        self.mlp = Mlp()
        self.mlp.fc1 = nn.Linear(hidden, geometry.tower_intermediate)
        self.mlp.fc2 = nn.Linear(geometry.tower_intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y, attention = self.layer_norm1(x), self.self_attn
        q, k, v = (
            project(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        y = attend(q, k, v).transpose(1, 2).flatten(2)
        x = x + attention.out_proj(y)
        out: Tensor = x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x)), approximate="tanh"))
        return out


def projector(geometry: Geometry) -> nn.Sequential:
    hidden = geometry.hidden
    return nn.Sequential(nn.Linear(geometry.tower_hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class Reader(nn.Module):
    """Heads that read shapes off the tower's output while it is trained; the model does not keep them.

    Each patch says whether a shape has its centre there, and if so which kind, colour, size, row and column.
    """

    CLASSES = (("there", 2), ("kind", 6), ("colour", 8), ("size", 2), ("row", 3), ("column", 3))

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(geometry.tower_hidden)
        self.head = nn.Linear(geometry.tower_hidden, sum(n for _, n in self.CLASSES))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.norm(features)).split([n for _, n in self.CLASSES], dim=-1)
        return {name: part for (name, _), part in zip(self.CLASSES, logits, strict=True)}

    def loss(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """labels: int64 (pictures, side * side, classes), -100 where there is none"""
        logits = self(features)
        parts = {}
        for i, (name, _) in enumerate(self.CLASSES):
            parts[name] = F.cross_entropy(logits[name].flatten(0, 1).float(), labels[..., i].flatten())
        return parts

    def num_read(self, features: Tensor, labels: Tensor) -> tuple[int, int]:
        """The number of pictures that are read without a mistake, and of all pictures."""
        logits = self(features)
        right = torch.stack(
            [
                (logits[name].argmax(-1) == labels[..., i]) | (labels[..., i] < 0)
                for i, (name, _) in enumerate(self.CLASSES)
            ]
        )
        return int(right.all(0).all(1).sum()), len(labels)
