"""Decides which utterances share a batch."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plan_batches"]

MAX_PADDING = 0.25
"""Share of a batch that may be padding: it must not cost more than sharing the weights saves."""


def plan_batches(frames: Sequence[int], max_frames: int) -> list[list[int]]:
    """Groups utterances of these lengths, similar ones together; each index occurs once.

    A batch has up to `max_frames` frames, including padding; a longer utterance is alone in its batch.
    """
    batches: list[list[int]] = []
    used = 0
    for i in sorted(range(len(frames)), key=lambda i: -frames[i]):
        size = frames[batches[-1][0]] * (len(batches[-1]) + 1) if batches else 0
        if batches and size <= max_frames and used + frames[i] >= (1 - MAX_PADDING) * size:
            batches[-1].append(i)
            used += frames[i]
        else:
            batches.append([i])
            used = frames[i]
    return batches
