"""SigLIP vision towers of any shape with random weights, in the format of Hugging Face."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["VisionShape", "make_tower", "vision_config"]


@dataclass(frozen=True)
class VisionShape:
    hidden: int = 24
    intermediate: int = 50
    layers: int = 3
    """As the config counts them: one more than the file holds, unless the tower is `apart`."""
    heads: int = 3
    image_size: int = 28
    patch: int = 14
    apart: bool = False
    """In a folder of its own, and whole: with the last layer, the pooling head, and names without prefix."""


def vision_config(vision: VisionShape) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": vision.hidden,
        "image_size": vision.image_size,
        "intermediate_size": vision.intermediate,
        "num_attention_heads": vision.heads,
        "num_hidden_layers": vision.layers,
        "patch_size": vision.patch,
    }


def make_tower(vision: VisionShape, seed: int) -> dict[str, Tensor]:
    """The tensors of a SigLIP vision model, by the names that they have in a file of its own."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def add(name: str, rows: int, *columns: int) -> None:
        fan_in = math.prod(columns)
        tensors[f"vision_model.{name}.weight"] = torch.randn(rows, *columns, generator=generator) / math.sqrt(
            fan_in
        )
        tensors[f"vision_model.{name}.bias"] = 0.1 * torch.randn(rows, generator=generator)

    def add_norm(name: str) -> None:
        tensors[f"vision_model.{name}.weight"] = 1 + 0.1 * torch.randn(vision.hidden, generator=generator)
        tensors[f"vision_model.{name}.bias"] = 0.1 * torch.randn(vision.hidden, generator=generator)

    side = vision.image_size // vision.patch
    add("embeddings.patch_embedding", vision.hidden, 3, vision.patch, vision.patch)
    tensors["vision_model.embeddings.position_embedding.weight"] = torch.randn(
        side**2, vision.hidden, generator=generator
    )
    for i in range(vision.layers if vision.apart else vision.layers - 1):
        layer = f"encoder.layers.{i}."
        for kind in ("q", "k", "v", "out"):
            add(f"{layer}self_attn.{kind}_proj", vision.hidden, vision.hidden)
        add(f"{layer}mlp.fc1", vision.intermediate, vision.hidden)
        add(f"{layer}mlp.fc2", vision.hidden, vision.intermediate)
        add_norm(f"{layer}layer_norm1")
        add_norm(f"{layer}layer_norm2")
    add_norm("post_layernorm")
    if vision.apart:
        add("head.mlp.fc1", vision.intermediate, vision.hidden)
        tensors["vision_model.head.probe"] = torch.randn(1, 1, vision.hidden, generator=generator)
    return tensors
