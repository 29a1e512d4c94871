"""The floating-point formats that models compute in, by the names users give."""

from __future__ import annotations

import torch

__all__ = ["DTYPES", "dtype_of", "usual_codec_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(given: object) -> torch.dtype | None:
    """The format that a user means by its name or by torch's own; None if it is not one of `DTYPES`."""
    if isinstance(given, torch.dtype):
        return given if given in DTYPES.values() else None
    return DTYPES.get(given) if type(given) is str else None


def usual_codec_dtype(device: torch.device) -> torch.dtype:
    """What a codec's "auto" stands for: on a GPU float16, whose products take a fraction of the time."""
    return torch.float16 if device.type == "cuda" else torch.float32
