"""The voices of a CosyVoice folder: `spk2info.pt`, {name: {"embedding": (1, dim), ...}}."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from antiphon.codec.checkpoint import read_pickle
from antiphon.errors import CheckpointError

__all__ = ["default_voice", "read_voices"]

PREFERRED_VOICE = "英文女"
"""The voice that Stream-Omni speaks with: an English-speaking woman."""


def read_voices(path: Path, embedding_dim: int) -> dict[str, Tensor]:
    """Speaker embeddings by name, float32 (embedding_dim,), in the file's order. Other fields are ignored."""
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: expected at least one voice by name, found {type(content).__name__}")
    voices: dict[str, Tensor] = {}
    for name, info in content.items():
        embedding = info.get("embedding") if isinstance(info, dict) else None
        if not isinstance(name, str) or not isinstance(embedding, Tensor):
            raise CheckpointError(f"{path}: {name!r}: expected a name with a tensor `embedding`")
        if embedding.numel() != embedding_dim or not embedding.is_floating_point():
            raise CheckpointError(
                f"{path}: {name}: embedding: expected {embedding_dim} floating point numbers, "
                f"found {tuple(embedding.shape)} {embedding.dtype}"
            )
        if not torch.isfinite(embedding).all():
            raise CheckpointError(
                f"{path}: {name}: embedding: expected finite numbers, found NaN or infinity"
            )
        voices[name] = embedding.float().flatten()
    return voices


def default_voice(voices: dict[str, Tensor]) -> str:
    return PREFERRED_VOICE if PREFERRED_VOICE in voices else next(iter(voices))
