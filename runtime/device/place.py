"""Where the codec computes, and in what precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from antiphon.errors import ConfigError
from antiphon.plain import shown

__all__ = ["exact_float32", "resolve_device"]


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is the GPU if there is one. Raises ConfigError for a device that this machine lacks."""
    if not isinstance(device, (str, torch.device)):
        raise ConfigError(f"device: expected auto, cpu or cuda, got {shown(device)}")
    if device == "auto":
        return _automatic()
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu or cuda, got {shown(str(device))}") from error
    if place.type not in ("cpu", "cuda") or (place.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device: expected a device of this machine, cpu or cuda, got {shown(str(device))}")
    return place


def _automatic() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Float32 products in full precision on a GPU, where convolutions use TF32 by default.

    The setting belongs to the process, so only one thread at a time may be inside.
    """
    if device.type != "cuda":
        yield
        return
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
