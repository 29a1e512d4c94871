"""How fast a machine got on with its work, moment by moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from antiphon.bench.simulate.moments import WINDOW_S
from antiphon.bench.simulate.watching import Piece

__all__ = ["rates_of"]

SLOWEST, FASTEST = 0.01, 4.0
"""Bounds on what a moment counts for"""
LEAST_BUSY = 0.2
"""Share of a moment in which there was work; one with less says nothing."""

Array = NDArray[np.float64]


def rates_of(pieces: Sequence[Piece], own_s: Array, expected_s: Array) -> tuple[float, ...]:
    """The work that was done in each moment of `WINDOW_S` in which there was any: expected seconds for each
    that it took, 1 on average over the moments. own_s, expected_s: what each piece took, and should have."""
    if not len(pieces):
        return ()
    first_s = min(piece.begun_s for piece in pieces)
    count = int((max(piece.ended_s for piece in pieces) - first_s) / WINDOW_S) + 1
    taken, wanted = np.zeros(count), np.zeros(count)
    for piece, own, expected in zip(pieces, own_s.tolist(), expected_s.tolist(), strict=True):
        length_s = max(piece.ended_s - piece.begun_s, 1e-9)
        begin, end = (piece.begun_s - first_s) / WINDOW_S, (piece.ended_s - first_s) / WINDOW_S
        for window in range(int(begin), min(int(end), count - 1) + 1):
            share = max(0.0, min(end, window + 1) - max(begin, window)) * WINDOW_S / length_s
            taken[window] += own * share
            wanted[window] += expected * share
    busy = taken >= LEAST_BUSY * WINDOW_S
    rates = np.clip(wanted[busy] / np.maximum(taken[busy], 1e-12), SLOWEST, FASTEST)
    return tuple((rates / rates.mean()).tolist()) if len(rates) else ()
