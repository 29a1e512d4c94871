"""How loud a sound is from moment to moment, and where it is loud.

What counts as loud depends on the sound: its background, and its loudest moments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.sound.arrays import AudioArray

__all__ = ["HOP_S", "Levels", "levels_of", "loud_runs", "smooth"]

HOP_S = 0.01
SMOOTHED_HOPS = 5
FLOOR_PERCENT = 10
QUIET_SHARE = 0.3
"""Of the span in dB from the background to the loudest moment: below this it is quiet ..."""
QUIET_DB = 40.0
"""... if it is also this far below the loudest moment."""
LEAST_SPAN_DB = 6.0
"""With less between background and loudest moment there are no pauses to be found."""
FAINTEST = 1e-10
"""Power; -100 dB, below what 16 bits hold."""

Levels = NDArray[np.float32]


def levels_of(samples: AudioArray, hop: int) -> Levels:
    """The power of each whole hop in dB, without what is constant in it, smoothed over its neighbours."""
    num = max(1, len(samples) // hop)
    whole = samples[: num * hop]
    blocks = whole.reshape(num, -1)
    powers = np.einsum("ij,ij->i", blocks, blocks) / blocks.shape[1] - blocks.mean(axis=1) ** 2
    return smooth(np.maximum(powers, FAINTEST), SMOOTHED_HOPS)


def smooth(powers: NDArray[Any], size: int) -> Levels:
    """The means of `size` neighbours, in dB."""
    padded = np.pad(powers.astype(np.float64), (size // 2, size - 1 - size // 2), mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    means = np.maximum((sums[size:] - sums[:-size]) / size, FAINTEST)
    decibels: Levels = (10 * np.log10(means)).astype(np.float32)
    return decibels


def loud_runs(levels: Levels, hops_per_s: float, pause_s: float) -> list[tuple[int, int]]:
    """Stretches [start, end) of hops between pauses of at least `pause_s`; all of it is one where background
    and loudest moment are alike."""
    floor, top = float(np.percentile(levels, FLOOR_PERCENT)), float(levels.max())
    if top - floor < LEAST_SPAN_DB:
        return [(0, len(levels))]
    loud = levels > max(floor + QUIET_SHARE * (top - floor), top - QUIET_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    parted = starts[1:] - ends[:-1] >= pause_s * hops_per_s
    firsts = starts[np.concatenate([[True], parted])]
    lasts = ends[np.concatenate([parted, [True]])]
    return [(int(start), int(end)) for start, end in zip(firsts, lasts, strict=True)]
