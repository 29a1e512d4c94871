"""Where models compute, and in what precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from antiphon.errors import ConfigError
from antiphon.plain import shown

__all__ = ["exact_float32", "resolve_device", "sum_in_float32"]

cudnn: Any = torch.backends.cudnn


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is the GPU if there is one; of several, without a number, this thread's current one. Raises
    ConfigError for a device that this machine lacks."""
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
    return _numbered(place)


def _automatic() -> torch.device:
    return _numbered(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _numbered(place: torch.device) -> torch.device:
    """Each thread has its own current GPU, so that "cuda" alone would mean another in another thread."""
    if place != torch.device("cuda") or torch.cuda._is_in_bad_fork():  # which `check_device` refuses
        return place
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Float32 products in full precision on a GPU, where convolutions use TF32 by default.

    The setting belongs to the process, so only one thread at a time may be inside.
    """
    if device.type != "cuda":
        yield
        return
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [place.fp32_precision for place in places]
    try:
        with _older_switches_off():
            for place in places:
                place.fp32_precision = "ieee"
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


@contextmanager
def _older_switches_off() -> Iterator[None]:
    """torch's switches for TF32 from before there was one for each kind of operation. Whoever reads one, in
    any thread, gets an error if it says something else than those, and so must whoever sets one.

    Where somebody has made them differ already, they stay as they are.
    """
    try:
        matmul, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        yield
        return
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolutions


def sum_in_float32(device: torch.device) -> None:
    """From now on, products of 16 bits on a GPU add up in float32 to the end.

    By default cuBLAS may round the sums of parts of a row to 16 bits and add those, and whether it does
    depends on the number of rows. The setting belongs to the process.
    """
    if device.type == "cuda":
        matmul = torch.backends.cuda.matmul
        matmul.allow_bf16_reduced_precision_reduction = False
        matmul.allow_fp16_reduced_precision_reduction = False
