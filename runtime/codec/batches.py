"""Decides which utterances share a batch, and which sizes of batches there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.config import StreamSchedule

__all__ = [
    "MAX_GRAPHS",
    "Ladder",
    "bucket_rows",
    "flow_ladder",
    "plan_batches",
    "stream_batch",
    "vocoder_ladder",
]

MAX_PADDING = 0.25
"""Share of a batch that may be padding: it must not cost more than sharing the weights saves."""
MAX_COMPUTED = 1.25
"""Frames that a batch of streams computes at most, for each that it needs; but a stream alone may need fewer
than the smallest size has."""
MAX_GRAPHS = 32
"""Recordings kept of each network, the last used; no ladder has more sizes."""
ROW_STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FRAME_STEP = 8
MAX_FRAME_RATIO = 1.75
"""From each of a ladder's numbers of frames to the next, at most: what is between is the ends of utterances,
a small part of all speech."""


def bucket_rows(rows: int) -> int:
    """The next of `ROW_STEPS`, or of the multiples of the last."""
    return next((step for step in ROW_STEPS if rows <= step), -(-rows // ROW_STEPS[-1]) * ROW_STEPS[-1])


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


@dataclass(frozen=True)
class Ladder:
    """The sizes that are recorded."""

    rows: tuple[int, ...]
    """Rising."""
    frames: tuple[int, ...]
    """Rising."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(rows, frames) of each, the largest first: memory that it took serves the others."""
        return [(rows, frames) for rows in reversed(self.rows) for frames in reversed(self.frames)]

    def fit(self, rows: int, frames: int) -> tuple[int, int] | None:
        """The smallest size that holds a batch; None: none does."""
        of_rows = next((step for step in self.rows if rows <= step), None)
        of_frames = next((step for step in self.frames if frames <= step), None)
        return None if of_rows is None or of_frames is None else (of_rows, of_frames)


def flow_ladder(params: FlowParams, schedule: StreamSchedule, max_frames: int) -> Ladder:
    """The sizes of a stream's chunks in the flow, of voices without a prompt, in batches of `max_frames`."""
    ahead = schedule.lookahead_units
    done, units = 0, [schedule.context_units + schedule.max_units + ahead]
    for length in _chunks(schedule):
        units.append(min(done, schedule.context_units) + length + ahead)
        done += length
    # Where frames of units begin, their number rounds up or down.
    return _ladder([params.mel_frames(count) + 1 for count in units], max_frames)


def vocoder_ladder(params: FlowParams, schedule: StreamSchedule, max_frames: int, tail: int) -> Ladder:
    """The sizes of its windows in the vocoder, of which `tail` frames at most are from the chunk before."""
    # The last chunk goes on to the end of its look-ahead.
    windows = [params.mel_frames(schedule.max_units + schedule.lookahead_units) + 1 + tail]
    done = 0
    for length in _chunks(schedule):
        windows.append(min(params.mel_frames(done), tail) + params.mel_frames(length) + 1)
        done += length
    return _ladder(windows, max_frames)


def stream_batch(frames: Sequence[int], ladder: Ladder) -> list[int]:
    """Which of some streams, the most urgent first, are computed next: the first, and others about as long.

    frames: how many the next chunk of each computes. So many rows are taken that all of a recording's are
    used, or that at most `MAX_COMPUTED` times the needed frames are computed.
    """
    size = ladder.fit(1, frames[0])
    if size is None:  # it runs in a size of its own, as with a long prompt of a voice
        most = min(ladder.rows[-1], ladder.rows[-1] * ladder.frames[-1] // frames[0])
        near = [i for i, each in enumerate(frames) if frames[0] / MAX_COMPUTED <= each <= frames[0]]
        return near[: max(1, most)]
    longest = size[1]
    batch = [i for i, each in enumerate(frames) if longest / MAX_FRAME_RATIO < each <= longest or i == 0]
    batch = batch[: ladder.rows[-1]]
    while len(batch) > 1:
        rows = next(step for step in ladder.rows if len(batch) <= step)
        if rows * longest <= MAX_COMPUTED * sum(frames[i] for i in batch):
            break
        full = max(step for step in ladder.rows if step <= len(batch))
        if full == len(batch):  # only the lengths differ
            break
        batch = batch[:full]
    return batch


def _chunks(schedule: StreamSchedule) -> list[int]:
    """The lengths of chunks as they grow, up to the first of the longest."""
    lengths = [schedule.chunk_units(0)]
    while lengths[-1] < schedule.max_units and len(lengths) < MAX_GRAPHS and schedule.growth > 1:
        lengths.append(schedule.chunk_units(len(lengths)))
    return lengths


def _ladder(wanted: Sequence[int], max_frames: int) -> Ladder:
    """The wanted numbers of frames, rounded up, and more between them where they are far apart; rows as far
    as they fit into `max_frames`."""
    steps = sorted({-(-frames // FRAME_STEP) * FRAME_STEP for frames in wanted})
    kept: list[int] = []
    for step in reversed(steps):  # one that another is hardly more than is left out
        if not kept or kept[-1] > 1.1 * step:
            kept.append(step)
    frames: list[int] = []
    for step in reversed(kept):
        if frames and step > MAX_FRAME_RATIO * frames[-1]:
            middle = round((step * frames[-1]) ** 0.5 / FRAME_STEP) * FRAME_STEP
            frames += [middle] if frames[-1] < middle < step else []
        frames.append(step)
    rows = [step for step in ROW_STEPS if step == 1 or step * frames[-1] <= max_frames]
    while len(rows) * len(frames) > MAX_GRAPHS:
        if len(frames) > len(rows):
            del frames[0]
        else:
            rows.pop()
    return Ladder(tuple(rows), tuple(frames))
