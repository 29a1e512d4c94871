"""Cuts a recording of any length into pieces that a model can hear one by one: at pauses, and where nobody
pauses for long, at the quietest point.

What counts as quiet depends on the recording: its background, and its loudest moments. Nothing that may be
speech is left out: between two pieces there is at most what `antiphon.sound.activity` says is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.sound.activity import has_speech
from antiphon.sound.arrays import AudioArray

__all__ = ["TARGET_S", "Piece", "cut_into_pieces"]

TARGET_S = 20.0
"""No piece is longer. Models are trained on utterances, which seldom are."""
PAUSE_S = 0.5
"""A pause of this length ends a piece: a sentence has most likely ended."""
LEAD_S = 0.1
"""How much quiet a piece keeps before it is loud. Models are trained on speech that begins at once: after a
third of a second the packaged one mishears the first word."""
REST_S = 0.3
"""How much it keeps after that: a word's soft end, and the moment that a model takes to be sure of it."""
SHORTEST_GAP_S = 0.3
"""Anything quiet that is shorter belongs to the piece before it: nobody can tell whether it is speech."""
WHOLE_REST_S = 1.0
"""A recording of a single sentence that ends with at most this much quiet is left as it is."""
LAST_PART = 1 / 3
"""Of a piece that nobody's pause ends: where its quietest point is looked for."""
SHORTEST_REST_S = 1.0
"""Such a cut leaves at least this much for the next piece."""
HOP_S = 0.01
SMOOTHED_HOPS = 5
CUT_HOPS = 20
"""The quietest point is that of a fifth of a second, so that no cut goes through the closure of a "t"."""
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


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording, as numbers of samples: [start, end), of which [loud_start, loud_end) is what
    is heard."""

    start: int
    end: int
    loud_start: int
    loud_end: int


def cut_into_pieces(samples: AudioArray, rate_hz: int, longest_s: float = TARGET_S) -> list[Piece]:
    """The pieces of mono float32 (n,) in which there is speech, in order; they do not overlap.

    longest_s: no piece is longer, nor longer than `TARGET_S`.
    """
    longest_s = min(longest_s, TARGET_S)
    lead_s, rest_s = min(LEAD_S, longest_s / 8), min(REST_S, longest_s / 8)
    gap_s = min(SHORTEST_GAP_S, longest_s / 8)
    hop = max(1, round(HOP_S * rate_hz))
    room = max(1, int((longest_s - lead_s - rest_s - gap_s) * rate_hz / hop))
    levels = _levels(samples, hop)
    runs = [run for whole in _loud_runs(levels, rate_hz / hop) for run in _split(levels, *whole, room)]
    lead, rest, gap = (int(seconds * rate_hz) for seconds in (lead_s, rest_s, gap_s))
    pieces: list[Piece] = []
    done, num = 0, len(samples)
    is_short = len(runs) == 1 and num <= room * hop
    for (first, last), (following, _) in zip(runs, [*runs[1:], (None, None)], strict=True):
        loud_start, loud_end = first * hop, min(last * hop, num)
        start = max(done, loud_start - lead)
        if start - done > gap:
            pieces += _quiet(done, start, room * hop)
        limit = num if following is None else max(loud_end, following * hop - lead)
        done = limit if limit - loud_end <= rest + gap else loud_end + rest
        if is_short and start <= gap and num - loud_end <= WHOLE_REST_S * rate_hz:
            start, done = 0, num
        pieces.append(Piece(start, done, loud_start, loud_end))
    pieces += _quiet(done, num, room * hop)
    return [piece for piece in pieces if has_speech(samples[piece.start : piece.end], rate_hz)]


def _levels(samples: AudioArray, hop: int) -> Levels:
    """The power of each whole hop in dB, without what is constant in it, smoothed over its neighbours."""
    num = max(1, len(samples) // hop)
    whole = samples[: num * hop]
    blocks = whole.reshape(num, -1)
    powers = np.einsum("ij,ij->i", blocks, blocks) / blocks.shape[1] - blocks.mean(axis=1) ** 2
    return _smooth(np.maximum(powers, FAINTEST), SMOOTHED_HOPS)


def _smooth(powers: NDArray[Any], size: int) -> Levels:
    """The means of `size` neighbours, in dB."""
    padded = np.pad(powers.astype(np.float64), (size // 2, size - 1 - size // 2), mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    means = np.maximum((sums[size:] - sums[:-size]) / size, FAINTEST)
    decibels: Levels = (10 * np.log10(means)).astype(np.float32)
    return decibels


def _loud_runs(levels: Levels, hops_per_s: float) -> list[tuple[int, int]]:
    """Stretches of hops between pauses."""
    floor, top = float(np.percentile(levels, FLOOR_PERCENT)), float(levels.max())
    if top - floor < LEAST_SPAN_DB:
        return [(0, len(levels))]
    loud = levels > max(floor + QUIET_SHARE * (top - floor), top - QUIET_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    parted = starts[1:] - ends[:-1] >= PAUSE_S * hops_per_s
    firsts = starts[np.concatenate([[True], parted])]
    lasts = ends[np.concatenate([parted, [True]])]
    return [(int(start), int(end)) for start, end in zip(firsts, lasts, strict=True)]


def _split(levels: Levels, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """A stretch of hops in parts of at most `room`, cut where it is quietest."""
    rest = min(room // 2, round(SHORTEST_REST_S / HOP_S))
    while end - start > room:
        last = min(start + room, end - rest)
        first = last - max(1, int(LAST_PART * (last - start)))
        begin = max(0, first - CUT_HOPS)
        smoothed = _smooth(10 ** (levels[begin : last + CUT_HOPS] / 10), CUT_HOPS)
        point = first + 1 + int(np.argmin(smoothed[first + 1 - begin : last + 1 - begin]))
        yield start, point
        start = point
    yield start, end


def _quiet(start: int, end: int, length: int) -> list[Piece]:
    """What lies between two pieces: somebody may whisper there."""
    bounds = [*range(start, end, length), max(start, end)]
    return [Piece(a, b, a, b) for a, b in pairwise(bounds)]
