"""The parts of the model: which tensors each stage trains, and where they are taken from afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

__all__ = ["MODEL", "PARTS", "load_parts", "part_of", "parts_in", "train_only"]

PARTS = {
    "seeing": ("model.vision_tower.", "model.mm_projector."),
    "thinking": ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."),
    "hearing": (
        "model.audio_embed_tokens.", "model.bottom_audio_layers.", "model.audio_norm.", "audio_to_text_proj.",
    ),
    "speaking": (
        "model.top_audio_layers.", "model.top_audio_norm.", "text_to_audio_proj.", "audio_lm_head.",
    ),
}  # fmt: skip
"""For each part, how the names of its tensors begin."""
MODEL = "omni."
"""Before the model's names in the state of a training that holds more than the model."""


def part_of(name: str) -> str:
    return next(part for part, starts in PARTS.items() if name.startswith(starts))


def train_only(omni: nn.Module, parts: Iterable[str]) -> None:
    """Leave all other parts as they are."""
    parts = set(parts)
    for name, parameter in omni.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)


def parts_in(state: Path) -> set[str]:
    """The parts in a training's `state.pt`: all of them, or, if it was restored, those that it trained."""
    found = torch.load(state, map_location="cpu", weights_only=True)["module"]
    return {part_of(name.removeprefix(MODEL)) for name in found if name.startswith(MODEL)}


def load_parts(omni: nn.Module, state: Path, parts: Iterable[str]) -> None:
    """Take these parts from a training's `state.pt`."""
    parts = set(parts)
    found = torch.load(state, map_location="cpu", weights_only=True)["module"]
    own = omni.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if part_of(name) in parts:
                tensor.copy_(found[MODEL + name])
