"""Speech of many requests, made off the engine's thread.

Units go in as they are picked, samples come out as they are made. Whose sound would end first is served
first, so that all play on without a gap as long as there is time for all; what comes together is one batch.
A request waits for nobody but the batch that is being made, and what fails fails alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from antiphon.codec.arrays import AudioArray
from antiphon.codec.stream import SpeechStream, advance
from antiphon.config import StreamSchedule

if TYPE_CHECKING:
    from antiphon.codec import Codec
    from antiphon.codec.voices import Voice

__all__ = ["Spoken", "Vocoder"]

logger = logging.getLogger(__name__)

LOOK_UP_S = 1.0
"""How often a thread with nothing to do looks whether it has been stopped."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """What became of a request's speech: more samples, its end, or why there will be no more."""

    request_id: str
    samples: AudioArray
    """float32 (n,), perhaps none"""
    is_last: bool
    error: str | None = None


@dataclass(eq=False)
class Job:
    """A request that speaks. At most one batch holds it at a time."""

    request_id: str
    voice: Voice
    seed: int
    stream: SpeechStream | None
    """None: it is decoded whole, once all units are there."""
    due_s: float
    """When its sound ends, or when it came if it has none yet."""
    units: list[int] = field(default_factory=list)
    """Not in the stream yet."""
    is_complete: bool = False
    is_idle: bool = True
    """No batch holds it."""

    def is_ready(self) -> bool:
        """Whether there is something to make of it. Under the lock, and while no batch holds it."""
        if self.stream is None:
            return self.is_complete
        if self.units or (self.is_complete and not self.stream.flow.is_complete):
            self.stream.add(self.units, final=self.is_complete)
            self.units = []
        return self.stream.ready


class Vocoder:
    """One thread, which is there while any request speaks.

    What it holds is bounded by the requests that are open: for each its units (which `max_units` bounds) and
    samples that nobody has fetched.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._jobs: dict[str, Job] = {}
        self._spoken: list[Spoken] = []
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_closed = False

    # --- for the engine's thread ----------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Requests whose last sample has not been made."""
        return len(self._jobs)

    def open(self, request_id: str, voice: str | None, seed: int, schedule: StreamSchedule | None) -> None:
        """A request begins to speak. schedule: None to decode it whole, once all its units are there.

        Raises InvalidRequest for an unknown voice.
        """
        speaker = self.codec.voice(voice)
        stream = None if schedule is None else self.codec.stream(speaker, seed, schedule)
        with self._lock:
            assert not self._is_closed, "nobody speaks after the end"
            self._jobs[request_id] = Job(request_id, speaker, seed, stream, time.perf_counter())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="antiphon-vocoder", daemon=True)
                self._thread.start()

    def push(self, request_id: str, units: Sequence[int] = (), *, final: bool = False) -> None:
        """More units of a request that is open; nothing happens where it has failed."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None:
                job.units += units
                job.is_complete = job.is_complete or final
                self._work.notify()

    def abort(self, request_id: str) -> None:
        """Make nothing more of a request, and tell nothing more of it."""
        with self._lock:
            self._jobs.pop(request_id, None)
            self._spoken = [spoken for spoken in self._spoken if spoken.request_id != request_id]
            self._work.notify()

    def poll(self, timeout_s: float = 0.0) -> list[Spoken]:
        """What was made since the last call; waits so long for the first of it."""
        with self._lock:
            if not self._spoken and timeout_s > 0:
                self._news.wait(timeout_s)
            spoken, self._spoken = self._spoken, []
            return spoken

    def stop(self) -> None:
        """Have the thread end soon, after the batch that it is making. Takes no lock, for finalizers to call
        it, which run in the middle of anything."""
        self._is_closed = True

    def close(self) -> None:
        """Drop all requests and wait for the thread."""
        self.stop()
        with self._lock:
            self._jobs.clear()
            self._spoken.clear()
            self._work.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    # --- in the vocoder's thread ----------------------------------------------------------------

    def _run(self) -> None:
        if self.codec.device.type == "cuda":
            import torch

            # Its own stream: its kernels run beside the model's.
            with torch.cuda.device(self.codec.device), torch.cuda.stream(torch.cuda.Stream()):
                self._serve()
        else:
            self._serve()

    def _serve(self) -> None:
        while True:
            with self._lock:
                batch = self._batch()
                while not batch and self._jobs and not self._is_closed:
                    self._work.wait(LOOK_UP_S)
                    batch = self._batch()
                if self._is_closed or not self._jobs:
                    self._thread = None
                    return
                for job in batch:
                    job.is_idle = False
            made = self.make(batch)
            with self._lock:
                for job, samples, error in made:
                    job.is_idle = True
                    if self._jobs.get(job.request_id) is job:
                        self._tell(job, samples, error)
                self._news.notify()

    def _batch(self) -> list[Job]:
        """The most urgent job, and those of its kind that fit into one batch with it."""
        ready = [job for job in self._jobs.values() if job.is_idle and job.is_ready()]
        ready.sort(key=lambda job: job.due_s)
        batch = [job for job in ready if (job.stream is None) == (ready[0].stream is None)]
        frames = 0
        for count, job in enumerate(batch):
            frames = max(frames, self._frames(job))
            if count and frames * (count + 1) > self.codec.max_batch_frames:
                return batch[:count]
        return batch

    def _frames(self, job: Job) -> int:
        """Mel frames that it takes to go on."""
        if job.stream is None:
            return self.codec.params.flow.mel_frames(len(job.units))
        return job.stream.ready_frames

    def make(self, jobs: list[Job]) -> list[tuple[Job, AudioArray, str | None]]:
        """Samples of each, or what went wrong with it."""
        try:
            return [(job, samples, None) for job, samples in zip(jobs, self._decode(jobs), strict=True)]
        except Exception as error:
            if len(jobs) > 1:  # one of them fails all
                return [made for job in jobs for made in self.make([job])]
            logger.exception("speech of %s failed", jobs[0].request_id)
            return [(jobs[0], np.zeros(0, np.float32), f"speech: {type(error).__name__}: {error}")]

    def _decode(self, jobs: list[Job]) -> list[AudioArray]:
        streams = [job.stream for job in jobs if job.stream is not None]
        if streams:
            return advance(streams)
        said = [job for job in jobs if job.units]
        waves = iter(
            self.codec.decode([j.units for j in said], [j.voice for j in said], [j.seed for j in said])
        )
        return [next(waves) if job.units else np.zeros(0, np.float32) for job in jobs]

    def _tell(self, job: Job, samples: AudioArray, error: str | None) -> None:
        is_last = error is not None or job.stream is None or (job.is_complete and job.stream.is_done)
        if len(samples):
            now = time.perf_counter()
            job.due_s = max(job.due_s, now) + len(samples) / self.codec.sample_rate_hz
        if len(samples) or is_last:
            self._spoken.append(Spoken(job.request_id, samples, is_last, error))
        if is_last:
            del self._jobs[job.request_id]
