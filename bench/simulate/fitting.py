"""Times fitted to pieces of work that were watched: what each takes alone, and by how much others slow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.bench.simulate.costs import IDLE_S, LONGEST_PAUSE_S, MODEL, PREPARE, SPEECH, Wake
from antiphon.bench.simulate.measured import Curve
from antiphon.bench.simulate.rates import rates_of
from antiphon.bench.simulate.watching import INTAKE, READ, SPOKEN, STEP, Piece

__all__ = ["Fitted", "fit", "fit_curve", "fit_wake"]

Array = NDArray[np.float64]
KINDS = (MODEL, SPEECH, PREPARE)
ROUNDS = 12
LONGEST = 30.0
"""A piece that took this many times the median of its like was held up by something else: it counts as that
long."""
FINER = 1.25
"""Sizes that are apart by less share a point of a curve."""


@dataclass(frozen=True)
class Fitted:
    """In seconds of a machine that does nothing else."""

    curves: dict[str, Curve]
    """By the names of pieces, but for reading and intake"""
    read: tuple[float, float, float]
    """A request for itself, for each second of its speech, for each picture"""
    intake: float
    wake: dict[str, Wake]
    """What a step, speech and reading take longer after a pause, by their kind"""
    tile: float
    slowed: dict[str, dict[str, float]]
    """See `Machine`"""
    rates: tuple[float, ...]
    """See `rates_of`"""


def fit(pieces: Sequence[Piece], first_pictures: Sequence[Piece] = ()) -> Fitted:
    """pieces: of an engine under several loads, in which each kind of work has been beside the others and
    without them. first_pictures: text passes that read pictures for the first time.

    A piece takes its time alone, as a curve over its size has it, times 1 + the sum of how much each that was
    beside it slows it. The curves and the slowing are fitted in turns.
    """
    beside = _beside(pieces)
    own_s = np.array([piece.own_s for piece in pieces])
    pauses_s = _pauses(pieces)
    is_waking = pauses_s > IDLE_S
    by_name = {name: _where(pieces, lambda piece, name=name: piece.name == name) for name in _names(pieces)}
    by_kind = {kind: _where(pieces, lambda piece, kind=kind: piece.kind == kind) for kind in KINDS}
    slowing = np.zeros((len(KINDS), len(KINDS)))
    curves: dict[str, Curve] = {}
    expected_s = np.zeros(len(pieces))
    read, intake = (0.0, 0.0, 0.0), 0.0
    wake = {STEP: Wake(), SPOKEN: Wake(), READ: Wake()}
    for _ in range(ROUNDS):
        alone_s, expected_s = own_s.copy(), np.zeros(len(pieces))
        for row, kind in enumerate(KINDS):
            alone_s[by_kind[kind]] /= 1 + beside[by_kind[kind]] @ slowing[row]
        for name, chosen in by_name.items():
            these = [pieces[i] for i in chosen]
            waking_s = np.array([wake[name].after(p) if name in wake else 0.0 for p in pauses_s[chosen]])
            if name == READ:
                read = _fit_reading(these, np.maximum(0.0, alone_s[chosen] - waking_s))
                expected_s[chosen] = _features(these) @ np.array(read)
            elif name == INTAKE:
                intake = _mean(alone_s[chosen])
                expected_s[chosen] = intake
            else:
                points = [
                    (pieces[i].size, pieces[i].context, max(0.0, float(alone_s[i] - more_s)))
                    for i, more_s in zip(chosen, waking_s, strict=True)
                    if name != STEP or not is_waking[i]
                ]
                curves[name] = fit_curve(points)
                expected_s[chosen] = [curves[name].at(p.size, p.context) for p in these]
            if name in wake:
                woken = chosen[is_waking[chosen]]
                late_s = np.minimum(alone_s[woken], LONGEST * expected_s[woken]) - expected_s[woken]
                wake[name] = fit_wake(pauses_s[woken], late_s, sleeps=name == STEP)
                expected_s[woken] += [wake[name].after(p) for p in pauses_s[woken]]
        for row, kind in enumerate(KINDS):
            chosen = by_kind[kind]
            columns = [c for c in range(len(KINDS)) if not (kind == MODEL == KINDS[c])]
            slowing[row, columns] = _fit_slowing(
                own_s[chosen], expected_s[chosen], beside[chosen][:, columns]
            )
    for row, kind in enumerate(KINDS):
        expected_s[by_kind[kind]] *= 1 + beside[by_kind[kind]] @ slowing[row]
    slowed = {
        kind: {other: float(slowing[r, c]) for c, other in enumerate(KINDS) if not kind == other == MODEL}
        for r, kind in enumerate(KINDS)
    }
    tile = [
        (p.own_s - curves[p.name].at(p.size, p.context)) / p.pictures for p in first_pictures if p.pictures
    ]
    tile_s = max(0.0, float(np.median(tile))) if tile else 0.0
    by_kind_wake = {MODEL: wake[STEP], SPEECH: wake[SPOKEN], PREPARE: wake[READ]}
    return Fitted(curves, read, intake, by_kind_wake, tile_s, slowed, rates_of(pieces, own_s, expected_s))


def fit_wake(pauses_s: Array, late_s: Array, *, sleeps: bool = True) -> Wake:
    """Least squares of how late work was after pauses. sleeps: whether any pause costs something, however
    short it is."""
    found, least = Wake(), np.inf
    ones, lengths = np.ones(len(pauses_s)), np.minimum(pauses_s, LONGEST_PAUSE_S)
    for alone, by_length in ((1, 1), (0, 1), (1, 0)) if sleeps else ((0, 1),):
        columns = np.column_stack([alone * ones, by_length * lengths])
        solved, *_ = np.linalg.lstsq(columns, late_s, rcond=None)
        rest = float(np.sum((columns @ solved - late_s) ** 2))
        if np.all(solved >= 0) and rest < least:
            least, found = rest, Wake(float(solved[0]), float(solved[1]))
    return found


def _names(pieces: Sequence[Piece]) -> list[str]:
    return sorted({piece.name for piece in pieces})


def _where(pieces: Sequence[Piece], chosen: Any) -> NDArray[np.intp]:
    return np.array([i for i, piece in enumerate(pieces) if chosen(piece)], dtype=np.intp)


def _pauses(pieces: Sequence[Piece]) -> Array:
    """Before each step and each speech, how long there was none, and before each reading, how long there was
    no work at all; 0 for other pieces, and for the first."""
    found, ended_s = np.zeros(len(pieces)), dict[str, float]()
    for number in np.argsort([piece.begun_s for piece in pieces], kind="stable"):
        piece = pieces[number]
        if piece.name in (STEP, SPOKEN, READ):
            rested = ended_s.values() if piece.name == READ else [ended_s.get(piece.name, np.inf)]
            found[number] = max(0.0, piece.begun_s - max(rested, default=np.inf))
        ended_s[piece.name] = max(piece.ended_s, ended_s.get(piece.name, 0.0))
    return found


def _beside(pieces: Sequence[Piece]) -> Array:
    """For each piece, how many of each kind were beside it on average, (n, kinds)."""
    begun, ended = (np.array([getattr(p, name) for p in pieces]) for name in ("begun_s", "ended_s"))
    length = np.maximum(ended - begun, 1e-9)
    columns = []
    for kind in KINDS:
        # passes are inside their steps: those count for both
        own = [p.kind == kind and (kind != MODEL or p.name in (STEP, INTAKE)) for p in pieces]
        chosen = np.array(own)
        at = np.concatenate([begun[chosen], ended[chosen]])
        change = np.repeat([1.0, -1.0], int(chosen.sum()))
        order = np.argsort(at, kind="stable")
        at, count = at[order], np.cumsum(change[order])
        if not len(at):
            columns.append(np.zeros(len(pieces)))
            continue
        area = np.concatenate([[0.0], np.cumsum(count[:-1] * np.diff(at))])
        total = np.interp(ended, at, area) - np.interp(begun, at, area)
        columns.append(np.maximum(0.0, total / length - chosen))
    return np.stack(columns, axis=1)


def _fit_slowing(own_s: Array, expected_s: Array, beside: Array) -> Array:
    """Least squares of own = expected * (1 + beside @ slowing), none of them below 0."""
    best, least = np.zeros(beside.shape[1]), np.inf
    known = expected_s > 0
    own_s, expected_s, beside = own_s[known], expected_s[known], beside[known]
    if not len(own_s):
        return best
    ratio = np.minimum(own_s / expected_s, LONGEST)
    weights = np.sqrt(expected_s)
    every = range(beside.shape[1])
    for columns in chain.from_iterable(combinations(every, count) for count in range(len(every) + 1)):
        chosen = list(columns)
        target = (ratio - 1) * weights
        found, *_ = np.linalg.lstsq(beside[:, chosen] * weights[:, None], target, rcond=None)
        rest = float(np.sum((beside[:, chosen] * weights[:, None] @ found - target) ** 2))
        if np.all(found >= 0) and rest < least:
            least, best = rest, np.zeros(beside.shape[1])
            best[chosen] = found
    return best


def _features(reads: Sequence[Piece]) -> Array:
    return np.array([[1.0, piece.size, piece.pictures] for piece in reads])


def _fit_reading(reads: Sequence[Piece], seconds: Array) -> tuple[float, float, float]:
    """Equal questions count as one, with their mean."""
    rows, like = np.unique(_features(reads), axis=0, return_inverse=True)
    means = np.array([_mean(seconds[like.reshape(-1) == i]) for i in range(len(rows))])
    found, *_ = np.linalg.lstsq(rows, means, rcond=None)
    alone, per_s, per_picture = (max(0.0, float(value)) for value in found)
    return alone, per_s, per_picture


def _mean(seconds: Array) -> float:
    return float(np.mean(np.minimum(seconds, LONGEST * np.median(seconds))))


def fit_curve(points: Sequence[tuple[float, float, float]]) -> Curve:
    """A curve through (size, context, seconds): means of like points, then least squares. Where more
    context or a larger size seems to take less, that is taken for noise."""
    groups: dict[tuple[float, int], list[tuple[float, float, float]]] = {}
    for point in points:
        groups.setdefault((point[0], int(np.log2(max(point[1], 1)) * 2)), []).append(point)
    like = [np.array(group) for group in groups.values()]
    size, context = (np.array([group[:, column].mean() for group in like]) for column in (0, 1))
    seconds = np.array([_mean(group[:, 2]) for group in like])
    weights = np.sqrt([len(group) for group in like])
    knots = _knots(np.unique(size))
    hats = np.stack([np.interp(size, knots, row) for row in np.eye(len(knots))], axis=1)
    found = np.zeros(0)
    slope = 0.0
    for columns in (np.column_stack([hats, context]), hats):
        found, *_ = np.linalg.lstsq(columns * weights[:, None], seconds * weights, rcond=None)
        slope = float(found[-1]) if columns.shape[1] > len(knots) else 0.0
        if slope >= 0:
            break
    heights = np.maximum(found[: len(knots)], 0.0)
    return Curve(
        tuple(map(float, knots)), _rising(heights, (hats * weights[:, None] ** 2).sum(axis=0)), slope
    )


def _rising(heights: Array, weights: Array) -> tuple[float, ...]:
    """The nearest that never fall: neighbours that do share their mean."""
    runs: list[tuple[float, float, int]] = []
    for height, weight in zip(heights.tolist(), np.maximum(weights, 1e-9).tolist(), strict=True):
        runs.append((height, weight, 1))
        while len(runs) > 1 and runs[-2][0] > runs[-1][0]:
            (low, light, few), (high, heavy, many) = runs.pop(), runs.pop()
            runs.append(((low * light + high * heavy) / (light + heavy), light + heavy, few + many))
    return tuple(chain.from_iterable([height] * count for height, _, count in runs))


def _knots(sizes: Array) -> Array:
    """Of all sizes, those that are apart enough."""
    kept = [sizes[0]]
    for size in sizes[1:]:
        if size >= FINER * kept[-1]:
            kept.append(size)
    if kept[-1] < sizes[-1] and len(kept) > 1:
        kept[-1] = sizes[-1]
    return np.array(kept)
