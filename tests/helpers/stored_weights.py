"""Checkpoints stored in other files, and loaded weights compared with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from antiphon.model.weights import OmniWeights

__all__ = ["TOWER", "assert_equal", "flatten", "shard", "with_tower_outside"]

TOWER = "model.vision_tower.vision_tower."


def flatten(weights: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the storage by the path of its field."""
    if isinstance(weights, Tensor):
        yield prefix, weights
    elif isinstance(weights, list):
        for i, item in enumerate(weights):
            yield from flatten(item, f"{prefix}.{i}")
    elif is_dataclass(weights):
        for field in fields(weights):
            yield from flatten(getattr(weights, field.name), f"{prefix}.{field.name}")


def assert_equal(found: OmniWeights, expected: OmniWeights) -> None:
    left, right = dict(flatten(found)), dict(flatten(expected))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name


def shard(folder: Path, parts: int) -> Path:
    """Store the checkpoint in several files; returns their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        held = {name: tensors[name] for name in sorted(tensors)[part::parts]}
        save_file(held, folder / file)
        weight_map.update(dict.fromkeys(held, file))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def with_tower_outside(folder: Path) -> None:
    """Move the vision tower into its folder, as the whole SigLIP that Hugging Face stores."""
    tensors = load_file(folder / "model.safetensors")
    tower = {name.removeprefix(TOWER): tensors.pop(name) for name in list(tensors) if name.startswith(TOWER)}
    last = {
        name.replace("layers.1.", "layers.2."): tensor
        for name, tensor in tower.items()
        if "layers.1." in name
    }
    whole = {
        **tower,
        **{name: tensor.clone() for name, tensor in last.items()},
        "vision_model.head.probe": torch.ones(1, 1, 32),
        "text_model.final_layer_norm.weight": torch.ones(32),
        "logit_scale": torch.ones(1),
    }
    save_file(tensors, folder / "model.safetensors")
    save_file(whole, folder / "vision_tower" / "model.safetensors")
