"""G.711, the sound of telephones: 8 bits a sample, by mu-law or by A-law."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np

__all__ = ["RATE_HZ", "Law", "decode", "encode"]

RATE_HZ = 8000
Law = Literal["ulaw", "alaw"]
Codes = np.ndarray[Any, np.dtype[np.uint8]]
Samples = np.ndarray[Any, np.dtype[np.int16]]

MU_BIAS, MU_CLIP = 132, 32635
A_ENDS = (0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF)
"""Where the segments of A-law end but for the last, in magnitudes of 12 bits."""


def encode(samples: Samples, law: Law) -> Codes:
    """int16 (n,) as codes (n,)."""
    codes: Codes = _encoder(law)[samples.view(np.uint16)]
    return codes


def decode(codes: Codes, law: Law) -> Samples:
    """Codes (n,) as int16 (n,)."""
    samples: Samples = _decoder(law)[codes]
    return samples


@lru_cache
def _encoder(law: Law) -> Codes:
    """The code of each sample, by the sample's bits."""
    samples = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)
    if law == "ulaw":
        magnitude = np.minimum(np.abs(samples), MU_CLIP) + MU_BIAS
        segment = np.floor(np.log2(magnitude)).astype(np.int32) - 7
        step = magnitude >> (segment + 3) & 15
        return np.asarray(~(np.where(samples < 0, 0x80, 0) | segment << 4 | step) & 0xFF, np.uint8)
    magnitude = samples >> 3
    magnitude = np.where(magnitude < 0, -magnitude - 1, magnitude)
    segment = np.searchsorted(np.array(A_ENDS), magnitude).astype(np.int32)
    step = magnitude >> np.maximum(segment, 1) & 15
    return np.asarray((segment << 4 | step) ^ np.where(samples < 0, 0x55, 0xD5), np.uint8)


@lru_cache
def _decoder(law: Law) -> Samples:
    codes = np.arange(1 << 8, dtype=np.int32)
    if law == "ulaw":
        codes = ~codes & 0xFF
        magnitude = (((codes & 15) << 3) + MU_BIAS << (codes >> 4 & 7)) - MU_BIAS
        return np.where(codes & 0x80, -magnitude, magnitude).astype(np.int16)
    codes ^= 0x55
    segment, step = codes >> 4 & 7, (codes & 15) << 4
    magnitude = np.where(segment == 0, step + 8, step + 0x108 << np.maximum(segment - 1, 0))
    return np.where(codes & 0x80, magnitude, -magnitude).astype(np.int16)
