"""Whose chunk of speech is made next, and whose sound may begin."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from antiphon.codec.batches import Ladder, stream_batch
from antiphon.codec.checkpoint.hyperparams import HOP
from antiphon.outputs.pacing import Chunk, Pace, Player, Rate, is_gapless
from antiphon.outputs.speech_job import Job
from antiphon.types import UNITS_PER_S

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["FIRST_DUE_S", "GAPLESS_FIRST_DUE_S", "SpeechOrder"]

FIRST_DUE_S = 0.3
"""A request whose first sound has been waited for this long is as urgent as one whose sound runs out now: a
listener who waits for a beginning hears no gap."""
GAPLESS_FIRST_DUE_S = 1.0
"""The same of a request whose sound is held back until it is safe: it makes way for sound that runs out
sooner than this."""
HORIZON_S = 6.0
"""A reply that is not complete is taken to go on for this long after its last unit."""
SOON, WAITING, LATER = range(3)
"""Who is served first: whose sound is needed soon, then who waits for the beginning of a sound without gaps,
then those who have enough for now."""


class SpeechOrder:
    """The order among the requests of one codec. Its methods are called under the worker's lock."""

    def __init__(self, codec: Codec) -> None:
        self.pace = Pace()
        self._codec = codec

    def frames(self, job: Job) -> int:
        """Mel frames that the job's next decode computes."""
        if job.stream is None:
            return self._codec.params.flow.mel_frames(len(job.units))
        return job.stream.ready_frames

    def ordered(self, ready: Collection[Job], now_s: float) -> list[Job]:
        """Jobs that have something to make, the most urgent first."""
        soon_s = GAPLESS_FIRST_DUE_S
        if (rate := self.pace.frames_per_s) is not None:
            # Sound that lasts no longer may run out while another chunk is made.
            longest = max((self.frames(job) for job in ready if job.stream is not None), default=0)
            soon_s = max(soon_s, 2 * longest / rate)

        def urgency(job: Job) -> tuple[int, float]:
            if job.gapless and not job.sounds:
                return WAITING, job.due_s
            return SOON if job.due_s < now_s + soon_s else LATER, job.due_s

        return sorted(ready, key=urgency)

    def batch(
        self,
        ready: Collection[Job],
        num_threads: int,
        now_s: float,
        *,
        ladder: Ladder | None,
        max_batch_frames: int,
    ) -> list[Job]:
        """The most urgent of jobs that have something to make, and those of the same kind that fit into one
        batch with it: no more than the share of one of `num_threads`, in one of the sizes of `ladder`, with
        at most `max_batch_frames` mel frames if there is more than one."""
        in_order = self.ordered(ready, now_s)
        share = -(-len(in_order) // num_threads)
        batch = [job for job in in_order if (job.stream is None) == (in_order[0].stream is None)][:share]
        if any(job.num_deaths for job in batch):  # it may be that a process dies of one of them
            return batch[:1]
        if batch and batch[0].stream is not None and ladder is not None:
            return [batch[i] for i in stream_batch([self.frames(job) for job in batch], ladder)]
        frames = 0
        for count, job in enumerate(batch):
            frames = max(frames, self.frames(job))
            if count and frames * (count + 1) > max_batch_frames:
                return batch[:count]
        return batch

    def to_begin(self, jobs: Collection[Job], num_threads: int, now_s: float) -> Iterator[Job]:
        """Those of all open jobs whose held sound can go on from here without a gap, and without giving one
        to others."""
        waiting = [job for job in jobs if job.held]
        if not waiting:
            return
        frames_per_s = self.pace.frames_per_s
        playing = [self._player(job, now_s) for job in jobs if job.sounds]
        in_hand = sum(self.frames(job) for job in jobs if job.thread is not None and not job.sounds)
        for job in sorted(waiting, key=lambda job: job.due_s):
            player = self._player(job, now_s)
            if (
                len(jobs) == 1  # it makes way for nobody, and its sound comes as fast as it can
                or frames_per_s is None
                or is_gapless([*playing, player], Rate(frames_per_s, num_threads), in_hand)
            ):
                playing.append(player)
                yield job

    def _player(self, job: Job, now_s: float) -> Player:
        """Who plays this job's sound, or would from now on."""
        rate_hz = self._codec.sample_rate_hz
        left_s = job.due_s - now_s if job.sounds else sum(map(len, job.held)) / rate_hz
        if job.stream is None:
            return Player(left_s, [])
        more, unit_s = len(job.units), 0.0
        if not job.is_complete:
            more += round(HORIZON_S * UNITS_PER_S)
            unit_s = max(0.0, now_s - job.first_unit_s) / max(1, job.num_units)
        return Player(
            left_s,
            [
                Chunk(max(0, later - len(job.units)) * unit_s, final * HOP / rate_hz, frames)
                for later, final, frames in job.stream.flow.chunks_left(more)
            ],
        )
