"""Speech of many requests, made off the engine's thread.

Units go in as they are picked, samples come out as they are made. The request whose sound would run out first
is served first, so that all play without a gap as long as there is time for all; where there is not, one may
have its sound held back until it can go on without one. What is ready together forms one batch. Where a
decode keeps one core busy, several threads make speech side by side. A request waits only for a batch that is
being made, and failures stay separate: an error in a decode ends only the speech that it was made for. If a
thread itself dies, for whatever reason, the speech that it had in hand ends, and another thread goes on with
the rest; if no thread can go on, each request that wants speech is told so.

A thread either makes speech itself or has a process make it (`Maker`). If that process dies, what it had in
hand is made again, each request by itself; one that it dies of twice ends.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

from antiphon.codec.apart.asking import VocoderDied
from antiphon.codec.stopping import Stopped, stoppable
from antiphon.codec.stream import all_or_nothing
from antiphon.config import StreamSchedule
from antiphon.device.current import Streams
from antiphon.errors import AntiphonError
from antiphon.outputs.speech_job import Job, Spoken
from antiphon.outputs.speech_maker import InThread, Lane, Maker, MakerApart
from antiphon.outputs.speech_order import FIRST_DUE_S, GAPLESS_FIRST_DUE_S, SpeechOrder
from antiphon.plain import told
from antiphon.process.at_exit import EXIT_WAIT_S, end_before_exit, start_thread
from antiphon.process.faults import log_fault
from antiphon.sound.arrays import AudioArray

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["SpeechWorker"]


LOOK_UP_S = 0.25
"""How often an idle thread checks whether it has been stopped."""
MAX_FRUITLESS_THREADS = 3
"""Threads that may die one after the other without finishing a batch; then all waiting speech fails."""
MAX_DEATHS = 2
"""Processes that may die one after the other in the same chunk of a request; then its speech fails."""


class SpeechWorker:
    """Threads that exist while any request speaks.

    Its memory is bounded by the open requests: for each, the units (which `max_units` bounds) and the samples
    that have not been fetched.
    """

    def __init__(self, codec: Codec, vocoders: MakerApart | None = None) -> None:
        """vocoders: processes that make the speech, which it then owns; None: its threads do."""
        self.codec = codec
        self.vocoders = vocoders
        self._maker: Maker = InThread(codec) if vocoders is None else vocoders
        self.num_threads = self._maker.num_lanes
        """How many threads make speech, if there is that much to do."""
        self.error: str | None = None
        """Why the last attempt to make speech failed; None once one succeeds."""
        self._streams = Streams(codec.device if vocoders is None else torch.device("cpu"))
        self._jobs: dict[str, Job] = {}
        self._spoken: list[Spoken] = []
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._ending: list[threading.Thread] = []
        """Threads that had nothing left to do, and may be about to end."""
        self._order = SpeechOrder(codec)
        self._num_fruitless = 0
        """Threads that have died since the last batch was made."""
        self._is_closed = False
        self._pid = os.getpid()
        end_before_exit(self)

    # --- for the engine's thread ----------------------------------------------------------------

    @property
    def num_speaking(self) -> int:
        """Requests whose last sample has not been made."""
        return len(self._jobs)

    @property
    def late_s(self) -> float:
        """By how much the next sound of each request that has units is late, added up. Takes no lock."""
        now = time.perf_counter()
        return sum(max(0.0, now - job.due_s) for job in list(self._jobs.values()) if job.num_units)

    def begin(
        self,
        request_id: str,
        voice: str | None,
        seed: int,
        schedule: StreamSchedule | None,
        *,
        gapless: bool = False,
    ) -> None:
        """A request begins to speak. schedule: None to decode it whole, once it has all its units. gapless:
        its sound is held back until it is likely to go on without a gap.

        Raises InvalidRequest for an unknown voice. If no thread can make the speech, `poll` says so.
        """
        speaker = self.codec.voice(voice)
        stream = None if schedule is None else self._maker.stream(speaker, seed, schedule)
        with self._lock:
            due_s = time.perf_counter() + (GAPLESS_FIRST_DUE_S if gapless else FIRST_DUE_S)
            self._jobs[request_id] = Job(request_id, speaker, seed, stream, due_s, gapless)
            self._have_threads()

    def push(self, request_id: str, units: Sequence[int] = (), *, final: bool = False) -> None:
        """Add units of an open request; does nothing if the request has failed."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None:
                job.add(units, time.perf_counter(), final=final)
                if final:
                    self._let_out()
                self._work.notify()

    def decode(self, units: Sequence[int], voice: str | None = None) -> Future[AudioArray]:
        """The whole speech of units that no request has picked, float32 (n,). May be called from any thread;
        cancelling the future gives the speech up.

        Its error is an AntiphonError. An idle engine does not notice that the thread has died: whoever waits
        calls `look_after` now and then. Raises InvalidRequest for wrong units and an unknown voice.
        """
        result: Future[AudioArray] = Future()
        name = f"decode-{uuid.uuid4().hex}"
        own: list[int] = self.codec.unit_array("units", units).tolist()
        job = Job(
            name,
            self.codec.voice(voice),
            0,
            None,
            time.perf_counter(),
            units=own,
            is_complete=True,
            result=result,
        )
        result.add_done_callback(lambda done: self.abort(name) if done.cancelled() else None)
        with self._lock:
            self._jobs[name] = job
            self._have_threads()
            self._work.notify()
        return result

    def look_after(self) -> None:
        """Make sure that a thread works on what there is to do."""
        with self._lock:
            self._have_threads()

    def abort(self, request_id: str) -> None:
        """Make no more of a request's speech, and report no more about it."""
        with self._lock:
            self._jobs.pop(request_id, None)
            self._spoken = [spoken for spoken in self._spoken if spoken.request_id != request_id]
            self._let_out()
            self._work.notify()

    def poll(self, timeout_s: float = 0.0) -> list[Spoken]:
        """What was made since the last call; if nothing was, waits up to `timeout_s` for something. Makes
        sure that a thread works on the rest."""
        with self._lock:
            self._have_threads()
            if not self._spoken and timeout_s > 0:
                self._news.wait(timeout_s)
                self._have_threads()
            spoken, self._spoken = self._spoken, []
            return spoken

    def stop(self) -> None:
        """Tell the thread to end after the network layer that it is in. Takes no lock, so that finalizers,
        which can interrupt anything, may call it."""
        self._is_closed = True
        self._maker.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, after `stop`. Does nothing in a forked child, which has no thread."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._work.notify_all()
            threads = [*self._threads, *self._ending]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def close(self) -> None:
        """Drop all requests and wait for the thread to give up its decode, not to finish it."""
        self.stop()
        self.join(EXIT_WAIT_S)
        self._maker.close()
        with self._lock:
            self._fail_all("the engine is closed")
            self._jobs.clear()
            self._spoken.clear()

    # --- threads that die -----------------------------------------------------------------------

    def _have_threads(self) -> None:
        """Called under the lock: makes sure that threads work on the jobs, or ends them if none can."""
        if not self._jobs:
            return None
        if self._is_closed:
            return self._fail_all("the engine is closed")
        for thread in [each for each in self._threads if not each.is_alive()]:  # it has died
            self._threads.remove(thread)
            self._num_fruitless += 1
            for job in list(self._jobs.values()):
                if job.thread is thread:
                    self._end(job, self._death)
        if self._num_fruitless >= MAX_FRUITLESS_THREADS:
            self._num_fruitless = 0  # the next request may try
            return self._fail_all(self._death)
        if (failure := self._maker.failure) is not None:
            self.error = failure
            return self._fail_all(failure)
        while len(self._threads) < min(len(self._jobs), self.num_threads):
            try:
                self._threads.append(start_thread(self._run, "antiphon-speech"))
            except Exception as error:  # noqa: BLE001 - the system's limit, or the interpreter's end
                if self._threads:
                    break  # the others do the work
                self.error = f"no thread can be started: {told(error)}"
                log_fault("speech cannot be made", error=error)
                return self._fail_all(self.error)
        return None

    @property
    def _death(self) -> str:
        """What the last thread died of."""
        return self.error or "its thread has died"

    def _fail_all(self, reason: str) -> None:
        for job in list(self._jobs.values()):
            self._end(job, reason)

    def _end(self, job: Job, reason: str) -> None:
        """Called under the lock: end this job with an error, after what of its sound is held."""
        if self._jobs.get(job.request_id) is job:
            del self._jobs[job.request_id]
            if job.result is None:
                self._spoken.append(Spoken(job.request_id, job.take(), True, f"speech: {reason}"))
            else:
                with suppress(InvalidStateError):  # it was cancelled
                    job.result.set_exception(AntiphonError(f"speech: {reason}"))

    def prepare(self) -> Iterator[tuple[int, int]]:
        """Record what making speech needs, on the stream that the first thread will use; yields how many
        recordings of how many are made. Processes have done so when they are loaded."""
        if self.vocoders is not None:
            return
        with self._streams.one():
            yield from self.codec.record()

    # --- in the speech thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._streams.one():  # so that its kernels run beside the model's
                self._serve()
        except BaseException as error:  # noqa: BLE001 - it ends the thread; `poll` starts another
            self.error = told(error)
            log_fault("the speech thread has died", error=error)
            with self._lock:
                self._news.notify_all()

    def _serve(self) -> None:
        while (work := self._next_work()) is not None:
            lane, batch = work
            try:
                self._make_and_tell(batch, lane)
            finally:
                self._maker.release(lane)

    def _next_work(self) -> tuple[Lane, list[Job]] | None:
        """A batch, and what makes it; waits for both. None: this thread ends."""
        with self._lock:
            while self._jobs and not self._is_closed:
                lane = self._maker.lane()
                if lane is not None:
                    try:
                        batch = self._batch()
                        for job in batch:
                            job.thread = threading.current_thread()
                    except BaseException:
                        self._maker.release(lane)
                        raise
                    if batch:
                        return lane, batch
                    self._maker.release(lane)
                    if not self._jobs:
                        break
                self._work.wait(LOOK_UP_S)
            self._leave()
            return None

    def _make_and_tell(self, batch: list[Job], lane: Lane) -> None:
        frames = sum(self._order.frames(job) for job in batch if job.stream is not None)
        begun_s = time.perf_counter()
        made = self.make(batch, lane)
        with self._lock:
            if frames:
                self._order.pace.made(frames, time.perf_counter() - begun_s)
            for job, samples, error in made:
                if self._jobs.get(job.request_id) is job:
                    self._tell_or_end(job, samples, error)
            for job in batch:
                job.thread = None
            self._let_out()
            self._num_fruitless = 0
            self._news.notify()

    def _leave(self) -> None:
        """Called under the lock: this thread ends, for there is nothing left to do."""
        thread = threading.current_thread()
        self._threads.remove(thread)
        self._ending = [*(each for each in self._ending if each.is_alive()), thread]

    def _batch(self) -> list[Job]:
        """Jobs for this thread to make next."""
        ready = [job for job in list(self._jobs.values()) if job.thread is None and self._is_ready(job)]
        return self._order.batch(
            ready,
            self.num_threads,
            time.perf_counter(),
            ladder=self._maker.ladder,
            max_batch_frames=self._maker.max_batch_frames,
        )

    def _is_ready(self, job: Job) -> bool:
        try:
            return job.is_ready()
        except BaseException as error:  # noqa: BLE001 - its units may or may not be in the stream
            log_fault("speech of %s failed", job.request_id, error=error)
            self._end(job, told(error))
            self._news.notify()
            return False

    def make(self, jobs: list[Job], lane: Lane) -> list[tuple[Job, AudioArray, str | None]]:
        """The samples of each job, or what went wrong with it; nothing of those that nobody wants any more,
        and of those that are to be made again."""
        try:
            streams = [job.stream for job in jobs if job.stream is not None]
            with all_or_nothing(streams), stoppable(lambda: self._is_unwanted(jobs)):
                made = [(job, samples, None) for job, samples in zip(jobs, _decode(jobs, lane), strict=True)]
            for job in jobs:
                job.num_deaths = 0
            return list(made)
        except Stopped:
            return []
        except VocoderDied as death:
            return [] if self._is_closed else [made for job in jobs for made in _again(job, death)]
        except BaseException as error:  # noqa: BLE001
            if len(jobs) > 1:  # one of them makes all fail
                return [made for job in jobs for made in self.make([job], lane)]
            log_fault("speech of %s failed", jobs[0].request_id, error=error)
            return [(jobs[0], np.zeros(0, np.float32), told(error))]

    def _is_unwanted(self, jobs: list[Job]) -> bool:
        """Whether all of them were aborted, or the worker was stopped. Takes no lock, since every layer calls
        it."""
        return self._is_closed or all(self._jobs.get(job.request_id) is not job for job in jobs)

    def _tell_or_end(self, job: Job, samples: AudioArray, error: str | None) -> None:
        try:
            self._tell(job, samples, error)
        except BaseException as fault:  # noqa: BLE001 - what was made is lost, or told only in part
            log_fault("speech of %s failed", job.request_id, error=fault)
            self._end(job, told(fault))

    def _tell(self, job: Job, samples: AudioArray, error: str | None) -> None:
        if error is not None:
            return self._end(job, error)
        self.error = None
        if job.result is not None:
            del self._jobs[job.request_id]
            with suppress(InvalidStateError):  # it was cancelled
                job.result.set_result(samples)
            return None
        is_last = job.stream is None or (job.is_complete and job.stream.is_done)
        if len(samples):
            job.held.append(samples)
        if is_last or (job.held and (job.sounds or not job.gapless)):
            self._let_out_of(job, is_last=is_last)
        if is_last:
            del self._jobs[job.request_id]
        return None

    def _let_out_of(self, job: Job, *, is_last: bool = False) -> None:
        """Tell a job's sound that is held."""
        samples = job.take()
        if len(samples):
            now = time.perf_counter()
            begins_s = max(job.due_s, now) if job.sounds else now
            job.due_s = begins_s + len(samples) / self.codec.sample_rate_hz
            job.sounds = True
        self._spoken.append(Spoken(job.request_id, samples, is_last))

    def _let_out(self) -> None:
        """Called under the lock: tell held sound that may begin now."""
        for job in self._order.to_begin(self._jobs.values(), self.num_threads, time.perf_counter()):
            self._let_out_of(job)
            self._news.notify()


def _decode(jobs: list[Job], lane: Lane) -> list[AudioArray]:
    streams = [job.stream for job in jobs if job.stream is not None]
    if streams:
        return lane.advance(streams)
    said = [job for job in jobs if job.units]
    waves = iter(lane.decode([j.units for j in said], [j.voice for j in said], [j.seed for j in said]))
    return [next(waves) if job.units else np.zeros(0, np.float32) for job in jobs]


def _again(job: Job, death: VocoderDied) -> list[tuple[Job, AudioArray, str | None]]:
    """A process has died of it, or beside it: it is made again by itself, or fails."""
    job.num_deaths += 1
    if job.num_deaths < MAX_DEATHS:
        return []
    return [(job, np.zeros(0, np.float32), f"a vocoder's process died of it {MAX_DEATHS} times: {death}")]
