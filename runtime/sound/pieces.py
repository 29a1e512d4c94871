"""Cuts a recording of any length into pieces that a model can hear one by one: at pauses, and where nobody
pauses for long, at the quietest point.

What counts as quiet depends on the recording: its background, and its loudest moments. Nothing that may be
speech is left out: between two pieces there is at most what `antiphon.sound.activity` says is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from antiphon.sound.activity import has_speech
from antiphon.sound.arrays import AudioArray
from antiphon.sound.loudness import HOP_S, Levels, levels_of, loud_runs, smooth

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
CUT_HOPS = 20
"""The quietest point is that of a fifth of a second, so that no cut goes through the closure of a "t"."""


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
    levels = levels_of(samples, hop)
    runs = [
        run for whole in loud_runs(levels, rate_hz / hop, PAUSE_S) for run in _split(levels, *whole, room)
    ]
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


def _split(levels: Levels, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """A stretch of hops in parts of at most `room`, cut where it is quietest."""
    rest = min(room // 2, round(SHORTEST_REST_S / HOP_S))
    while end - start > room:
        last = min(start + room, end - rest)
        first = last - max(1, int(LAST_PART * (last - start)))
        begin = max(0, first - CUT_HOPS)
        smoothed = smooth(10 ** (levels[begin : last + CUT_HOPS] / 10), CUT_HOPS)
        point = first + 1 + int(np.argmin(smoothed[first + 1 - begin : last + 1 - begin]))
        yield start, point
        start = point
    yield start, end


def _quiet(start: int, end: int, length: int) -> list[Piece]:
    """What lies between two pieces: somebody may whisper there."""
    bounds = [*range(start, end, length), max(start, end)]
    return [Piece(a, b, a, b) for a, b in pairwise(bounds)]
