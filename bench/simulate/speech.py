"""Speech that is not made: chunks, batches and pacing are the speech worker's own, sound is its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from antiphon.bench.simulate.costs import SPEECH, Costs
from antiphon.bench.simulate.events import Clock, Machine
from antiphon.codec.checkpoint.hyperparams import HOP, SAMPLE_RATE_HZ
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.hift.stream import F0_CONTEXT, HIFT_CONTEXT
from antiphon.config import StreamSchedule
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_order import FIRST_DUE_S, GAPLESS_FIRST_DUE_S, SpeechOrder
from antiphon.types import UNITS_PER_S

__all__ = ["CountedStream", "Heard", "SimulatedSpeech"]

WITHHELD = F0_CONTEXT + HIFT_CONTEXT
"""Frames of which the vocoder makes no sound before more come."""
VOICE = SimpleNamespace(prompt_mel=None, prompt_units=None)


class _Params:
    """What `FlowParams` says about lengths, of every codec of the kind."""

    input_frame_rate = UNITS_PER_S

    def mel_frames(self, num_units: int) -> int:
        return int(num_units / self.input_frame_rate * SAMPLE_RATE_HZ / HOP)


class _Flow(FlowStream):
    """Counts units instead of holding them."""

    def add(self, units: Sequence[int], *, complete: bool) -> None:
        self.num_units += len(units)
        self.is_complete = self.is_complete or complete

    def missing_units(self) -> int:
        """How many more make the next chunk ready, if they are not the last."""
        length = self.schedule.chunk_units(self._chunk_index) + self.schedule.lookahead_units
        return self.num_done + length - self.num_units

    def make(self) -> int:
        """Makes the chunk that is ready; returns how many frames become final."""
        frames, length = self.params.mel_frames, self.ready_units()
        before = self.num_done
        self.num_done += length
        self._chunk_index += 1
        self._first = max(self._first, self.num_done - self.schedule.context_units)
        return frames(self.num_done) - frames(before)


class CountedStream:
    """A `SpeechStream` as far as the worker asks it anything."""

    def __init__(self, schedule: StreamSchedule) -> None:
        self.flow = _Flow(cast(Any, _Params()), cast(Any, VOICE), 0, schedule)
        self.num_emitted = 0
        """Frames whose samples are out."""
        self._num_frames = 0

    def add(self, units: Sequence[int], *, final: bool) -> None:
        self.flow.add(units, complete=final)

    @property
    def ready(self) -> bool:
        return self.flow.ready_units() > 0 or (self.flow.is_done and not self.is_done)

    @property
    def ready_frames(self) -> int:
        return self.flow.ready_frames()

    @property
    def is_done(self) -> bool:
        return self.flow.is_done and self.num_emitted == self._num_frames

    def final_frames(self) -> int:
        """Frames whose sound the next chunk adds."""
        length = self.flow.ready_units()
        frames = self.flow.params.mel_frames
        known = self._num_frames + frames(self.flow.num_done + length) - frames(self.flow.num_done)
        is_last = self.flow.is_complete and self.flow.num_done + length == self.flow.num_units
        return max(0, (known if is_last else known - WITHHELD) - self.num_emitted)

    def make(self) -> int:
        """Makes the chunk that is ready; returns the number of its samples."""
        frames = self.final_frames()
        self._num_frames += self.flow.make() if self.flow.ready_units() else 0
        self.num_emitted += frames
        return frames * HOP


@dataclass(frozen=True)
class Heard:
    """Sound of a request that has been made."""

    request_id: str
    seconds: float
    is_last: bool


class SimulatedSpeech:
    """The speech worker of one replica: threads that make batches, in the order of `SpeechOrder`."""

    def __init__(
        self,
        clock: Clock,
        machine: Machine,
        costs: Costs,
        before: Callable[[], None],
        told: Callable[[Heard], None],
        after: Callable[[], None],
    ) -> None:
        """before: called when a batch has been made, to bring the units of all jobs up to now. told: gets the
        sound as it is made. after: called when the threads have begun what is next."""
        served = costs.served
        self.num_threads = served.num_speech_threads
        self.jobs: dict[str, Job] = {}
        self._clock, self._machine, self._costs, self._served = clock, machine, costs, served
        self._before, self._told, self._after = before, told, after
        self._schedule = served.settings.stream_schedule
        codec = SimpleNamespace(params=SimpleNamespace(flow=_Params()), sample_rate_hz=SAMPLE_RATE_HZ)
        self._order = SpeechOrder(cast(Any, codec))
        self._num_busy = 0

    @property
    def is_idle(self) -> bool:
        """Whether a thread has nothing to make."""
        return self._num_busy < self.num_threads

    def begin(self, request_id: str, *, gapless: bool) -> Job:
        """See `SpeechWorker.begin`."""
        due_s = self._clock.now_s + (GAPLESS_FIRST_DUE_S if gapless else FIRST_DUE_S)
        stream = cast(Any, CountedStream(self._schedule))
        self.jobs[request_id] = job = Job(request_id, cast(Any, VOICE), 0, stream, due_s, gapless)
        return job

    def push(self, job: Job, count: int, *, final: bool = False) -> None:
        """More units of a job; `wake` when all have theirs."""
        job.add(range(count), self._clock.now_s, final=final)
        if final:
            self._let_out()

    def abort(self, request_id: str) -> None:
        self.jobs.pop(request_id, None)

    def stop(self) -> None:
        """Drop all jobs; the machine has dropped the work."""
        self.jobs.clear()
        self._num_busy = 0

    def steps_to_ready(self, speaking: Sequence[Job]) -> float:
        """How many units each of these jobs has to get until one can be made by an idle thread."""
        if not self.is_idle:
            return float("inf")
        return min(
            (_stream(job).flow.missing_units() - len(job.units) for job in speaking), default=float("inf")
        )

    def wake(self) -> None:
        """Let idle threads take what is ready."""
        while self._num_busy < self.num_threads:
            ready = [job for job in self.jobs.values() if job.thread is None and job.is_ready()]
            batch = self._order.batch(
                ready,
                self.num_threads,
                self._clock.now_s,
                ladder=self._served.ladder,
                max_batch_frames=self._served.max_batch_frames,
            )
            if not batch:
                return
            frames = [self._order.frames(job) for job in batch]
            work_s = self._costs.speech_s(frames, [_stream(job).final_frames() for job in batch])
            work_s += self._costs.wake_s(SPEECH, self._machine.rested_s(SPEECH))
            for job in batch:
                job.thread = cast(Any, self)
            self._num_busy += 1
            made = partial(self._made, batch, sum(frames), self._clock.now_s)
            self._machine.begin(SPEECH, work_s, made)

    def _made(self, batch: list[Job], frames: int, begun_s: float) -> None:
        self._num_busy -= 1
        if frames:
            self._order.pace.made(frames, self._clock.now_s - begun_s)
        for job in batch:
            job.thread = None
            if self.jobs.get(job.request_id) is job:
                self._tell(job, _stream(job).make())
        self._before()
        self._let_out()
        self.wake()
        self._after()

    def _tell(self, job: Job, num_samples: int) -> None:
        is_last = job.is_complete and not job.units and _stream(job).is_done
        if num_samples:
            job.held.append(cast(Any, range(num_samples)))
        if is_last or (job.held and (job.sounds or not job.gapless)):
            self._let_out_of(job, is_last=is_last)
        if is_last:
            del self.jobs[job.request_id]

    def _let_out_of(self, job: Job, *, is_last: bool = False) -> None:
        held, job.held = job.held, []
        seconds = sum(map(len, held)) / SAMPLE_RATE_HZ
        if held:
            job.due_s = (max(job.due_s, self._clock.now_s) if job.sounds else self._clock.now_s) + seconds
            job.sounds = True
        self._told(Heard(job.request_id, seconds, is_last))

    def _let_out(self) -> None:
        for job in self._order.to_begin(self.jobs.values(), self.num_threads, self._clock.now_s):
            self._let_out_of(job)


def _stream(job: Job) -> CountedStream:
    return cast(CountedStream, job.stream)
