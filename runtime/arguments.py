"""What callers give an engine, checked and resolved."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from antiphon.config import EngineConfig
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.text.prompt import Prompt
from antiphon.types import SamplingParams

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["bounded", "check_choice", "engine_config", "open_codec"]

DEFAULT_MAX_TOKENS = 1024
"""Of text-only replies."""


def engine_config(settings: dict[str, Any]) -> EngineConfig:
    known = {field.name for field in fields(EngineConfig)}
    if unknown := sorted(set(settings) - known):
        raise TypeError(
            f"Engine: expected settings among {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    return EngineConfig(**settings)


def check_choice(name: str, value: str | None, only: str | None) -> None:
    if value != only:
        raise InvalidRequest(f"{name}: expected {only!r}, the one there is, got {value!r}")


def open_codec(
    codec: str | os.PathLike[str] | Codec | None,
    device: torch.device,
    dtype: str | torch.dtype,
    audio_vocab_size: int,
    *,
    enforce_eager: bool,
) -> Codec | None:
    from antiphon.codec import Codec

    if codec is None:
        return None
    if isinstance(codec, Codec):
        codec.check_process()
        if dtype != "auto":
            raise InvalidRequest(f"codec_dtype: expected a codec given as a folder, got one of {codec.dtype}")
    else:
        codec = Codec.from_pretrained(codec, device, dtype, enforce_eager=enforce_eager)
    if codec.num_units_vocab < audio_vocab_size:
        raise CheckpointError(
            f"codec: expected at least the model's {audio_vocab_size} units, found {codec.num_units_vocab}"
        )
    return codec


def bounded(params: SamplingParams, prompt: Prompt, longest: int, *, speaks: bool) -> SamplingParams:
    """`params` with limits that the longest sequence (max_model_len) allows.

    Raises InvalidRequest if it does not even hold the prompt, and one position more.
    """
    speech = prompt.speaking_ids if prompt.speaking_ids is not None else prompt.speech_ids
    room = {
        "max_tokens": longest - prompt.num_text_positions - len(prompt.closing),
        "max_units": longest - len(speech) - len(prompt.closing),
    }
    for left in room.values():
        if left < 1:
            raise InvalidRequest(
                f"the prompt has {longest - left} positions, "
                f"the longest sequence (max_model_len) is {longest}"
            )
    max_tokens = params.max_tokens
    if max_tokens is None:
        max_tokens = room["max_tokens"] if speaks else DEFAULT_MAX_TOKENS
    return replace(
        params,
        max_tokens=min(max_tokens, room["max_tokens"]),
        max_units=min(params.max_units, room["max_units"]),
    )
