"""The replies of all requests, from their first events to their completions."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.config import StreamSchedule
from antiphon.outputs.request_output import OutputState
from antiphon.outputs.speech_worker import SpeechWorker
from antiphon.plain import told
from antiphon.process.faults import log_fault
from antiphon.sched.plan import StackPlan
from antiphon.sched.scheduler import Scheduler
from antiphon.types import Event, Finished

__all__ = ["Replies"]

SPEECH_WAIT_S = 0.02
"""How long a step with nothing else to do waits for speech. Short, since the caller that drives the engine
may have something new for it."""


class Replies:
    """The part of an engine that reports what has become known, and has units turned into speech."""

    def __init__(self, scheduler: Scheduler, worker: SpeechWorker | None) -> None:
        self._scheduler = scheduler
        self._worker = worker
        self.outputs: dict[str, OutputState] = {}
        """By request id, for requests whose `Finished` has not been sent."""
        self.awaiting_audio: set[str] = set()
        """Requests that have ended and whose speech is still being made."""

    @property
    def has_ended(self) -> bool:
        """Whether the end of some request has yet to be reported."""
        return any(output.request.finished for output in self.outputs.values())

    def take(
        self, output: OutputState, voice: str | None, schedule: StreamSchedule | None, *, gapless: bool
    ) -> None:
        """Take a new request, whose speech is made by this schedule. If it raises, no trace of it is left."""
        request = output.request
        try:
            if output.makes_sound and self._worker is not None:
                self._worker.begin(request.request_id, voice, request.seed, schedule, gapless=gapless)
            self.outputs[request.request_id] = output
            self._scheduler.add(request)
        except BaseException:
            self.outputs.pop(request.request_id, None)
            self._scheduler.finish(request, "error")
            if self._worker is not None:
                self._worker.abort(request.request_id)
            raise

    def poll(self, plan: StackPlan) -> Iterator[Event]:
        """Events for what a pass has made known. A reply that cannot be reported ends with "error"; the
        others go on."""
        for chunk in plan.chunks:
            output = self.outputs.get(chunk.request.request_id)
            if output is None or not output.has_news:  # None: it was aborted before this was told
                continue
            try:
                yield from output.poll()
                if (stop := output.stop) is not None and not output.request.finished:
                    self._scheduler.finish(output.request, stop)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                yield from self.fail(output, error)

    def speak(self, plan: StackPlan) -> Iterator[Event]:
        """Have speech made of the units that a pass has made known, once they have been reported."""
        if self._worker is None:
            return
        for chunk in plan.chunks:
            output = self.outputs.get(chunk.request.request_id)
            if output is None or not output.makes_sound:  # None: it could not be reported
                continue
            try:
                if units := output.new_units():
                    self._worker.push(chunk.request.request_id, units)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                yield from self.fail(output, error)

    def reap(self) -> Iterator[Event]:
        """Report the end of requests that have ended, except for speech that is still being made."""
        for output in [o for o in self.outputs.values() if o.request.finished]:
            if output.request.request_id not in self.awaiting_audio:
                yield from self._close(output)

    def abort(self, output: OutputState) -> list[Event]:
        """End a request, even if its speech is still being made."""
        self._scheduler.finish(output.request, "abort")
        return self._close(output)

    def fail(self, output: OutputState, error: BaseException) -> list[Event]:
        """End a request with "error", and say why."""
        request_id = output.request.request_id
        log_fault("request %s failed", request_id, error=error)
        output.error = told(error)
        self._scheduler.finish(output.request, "error")
        self.awaiting_audio.discard(request_id)
        return self._close(output)

    def _close(self, output: OutputState) -> list[Event]:
        """Report the rest of a request that has ended, or what of it need not wait for its speech."""
        request, request_id = output.request, output.request.request_id
        events: list[Event] = []
        try:
            events += output.close()
            has_ended = request.finish_reason in ("stop", "length")
            if self._worker is not None and output.makes_sound and has_ended:
                self._worker.push(request_id, output.new_units(), final=True)
                self.awaiting_audio.add(request_id)
                return events
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns only this reply
            if output.error is None:
                log_fault("request %s failed", request_id, error=error)
                output.error = told(error)
                self._scheduler.finish(request, "error")
        if self._worker is not None and output.makes_sound:
            self._worker.abort(request_id)
            self.awaiting_audio.discard(request_id)
        events.append(Finished(request_id, output.completion()))
        del self.outputs[request_id]
        return events

    def collect_audio(self, *, may_wait: bool) -> Iterator[Event]:
        """What the speech worker has made; waits a moment for it if there is nothing else to do."""
        if self._worker is None:
            return
        waits = may_wait and self.awaiting_audio
        for spoken in self._worker.poll(SPEECH_WAIT_S if waits else 0.0):
            output = self.outputs.get(spoken.request_id)
            if output is None:
                continue  # left behind by an earlier fault
            finished: Finished | None = None
            try:
                if len(spoken.samples):
                    yield output.add_audio(spoken.samples)
                if spoken.is_last and spoken.error is None:
                    finished = Finished(spoken.request_id, output.completion())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                yield from self.fail(output, error)
                continue
            if spoken.error is not None:
                output.error = spoken.error
                self._scheduler.finish(output.request, "error")
                self.awaiting_audio.discard(spoken.request_id)
                yield from self._close(output)
            elif finished is not None:
                self.awaiting_audio.discard(spoken.request_id)
                del self.outputs[spoken.request_id]
                yield finished

    def clear(self) -> None:
        self.outputs.clear()
        self.awaiting_audio.clear()
