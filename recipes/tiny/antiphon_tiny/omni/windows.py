"""Which text a unit may look at while it is spoken, as the runtime decides it, and with errors.

A reply's text comes into view one entry at a time, whenever the units spoken so far have spelled a new label.
Reading its own speech back goes wrong now and then: a word is missed, or heard twice. So in training the
windows run ahead and fall behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["perturbed", "visible_counts"]


def visible_counts(labels: Sequence[int], num_entries: int, blank: int, lag: int) -> list[int]:
    """How many entries of the text each unit step sees, the first and one behind each label but the last.

    labels: of the units, as the bottom layers read them.
    """
    return [min(lag + new, num_entries) for new in _new_so_far(labels, blank)]


def perturbed(labels: Sequence[int], num_entries: int, blank: int, lag: int, rng: random.Random) -> list[int]:
    """The same for labels that are misread in places: one row in two as it is, others with errors."""
    counts = _new_so_far(labels, blank)
    if rng.random() < 0.5:
        missed, doubled = rng.choice(((0.12, 0.0), (0.0, 0.12), (0.08, 0.08)))
        moved, shift = [counts[0]], 0
        for before, now in pairwise(counts):
            if now > before and rng.random() < missed:
                shift -= 1
            elif rng.random() < doubled / 6:  # a label comes about every sixth unit
                shift += 1
            moved.append(max(moved[-1], now + shift))
        counts = moved
    return [min(lag + new, num_entries) for new in counts]


def _new_so_far(labels: Sequence[int], blank: int) -> list[int]:
    """Before each unit: how many new labels there have been."""
    counts, last, new = [0], blank, 0
    for label in labels[:-1]:
        if label not in (blank, last):
            new += 1
        if label != blank:
            last = label
        counts.append(new)
    return counts
