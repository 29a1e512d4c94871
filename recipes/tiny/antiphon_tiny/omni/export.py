"""From a training's state to a checkpoint folder in the released layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from antiphon_tiny.omni.geometry import Geometry
from antiphon_tiny.omni.model import Omni
from antiphon_tiny.omni.parts import load_parts

__all__ = ["export"]


def export(
    sources: Mapping[str, Path], skeleton: Path, folder: Path, geometry: Geometry, text_vocab: int
) -> int:
    """Write a checkpoint folder; returns its number of parameters. sources: each part's `state.pt`; a part
    without one is left untrained."""
    model = Omni(geometry, text_vocab)
    for part, source in sources.items():
        load_parts(model, source, [part])
    shutil.copytree(skeleton, folder, dirs_exist_ok=True)
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: not finite in float16")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())
