"""Parts of a Stream-Omni checkpoint, read for export: their tensors alone, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError
from antiphon.export.sources import hashes
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import checked_files
from antiphon.model.checkpoint.tensors import VISION_PREFIX, empty_weights, named_tensors
from antiphon.model.weights import OmniWeights

__all__ = ["ModelSource", "has_vision", "read_listening", "read_vision"]

LISTENING = (
    "model.audio_embed_tokens.",
    "model.bottom_audio_layers.",
    "model.audio_norm.",
    "audio_to_text_proj.",
)
VISION = (VISION_PREFIX, "model.mm_projector.")


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A part of a checkpoint that is exported."""

    config: ModelConfig
    """Of the whole checkpoint"""
    weights: OmniWeights
    """What is not of the part is undefined."""
    files: Mapping[str, str]
    """sha256 of config.json and of each file with tensors of the part, by name"""


def read_listening(folder: Path) -> ModelSource:
    """The bottom speech layers with their table and the CTC head. Raises CheckpointError."""
    return _read(folder, read_config(folder), LISTENING)


def read_vision(folder: Path) -> ModelSource:
    """The vision tower and the projector. Raises CheckpointError, also for a model without a tower."""
    config = read_config(folder)
    if config.vision is None:
        raise CheckpointError(
            f"{folder}: expected a checkpoint with a vision tower, found none in config.json"
        )
    return _read(folder, config, VISION)


def has_vision(folder: Path) -> bool:
    """Whether the checkpoint has a vision tower. Raises CheckpointError if there is no checkpoint."""
    return read_config(folder).vision is not None


def _read(folder: Path, config: ModelConfig, prefixes: tuple[str, ...]) -> ModelSource:
    files, int8 = checked_files(folder, config)
    own = replace(config, num_hidden_layers=0, num_top_audio_layers=0)
    own = replace(own, vision=None) if prefixes is LISTENING else replace(own, num_bottom_audio_layers=0)
    # The tables of other parts are allocated, too, but memory that nobody writes to takes no room.
    weights = empty_weights(own, device="cpu", dtype=torch.float32)
    places = {name: place for name, place in named_tensors(weights, own) if name.startswith(prefixes)}
    for name in places:
        if name in int8:
            entry = files.entries[name]
            raise CheckpointError(
                f"{entry.file}: {entry.name}: expected floating-point weights to export, found int8; export "
                "from the checkpoint that was quantized"
            )
    for name, tensor in files.read(list(places)):
        place = places[name].copy_(tensor.reshape(places[name].shape))
        if not torch.stack(torch.aminmax(place)).isfinite().all():
            entry = files.entries[name]
            raise CheckpointError(
                f"{entry.file}: {entry.name}: expected finite numbers, found NaN or infinity"
            )
    files_read = {folder / "config.json", *(files.entries[name].file for name in places)}
    hashed: dict[str, str] = {}
    for path in sorted(files_read):
        hashed |= hashes(folder, str(path.relative_to(folder) if path.is_relative_to(folder) else path))
    return ModelSource(config, weights, hashed)
