"""What comes back: the replies of all requests, from their first events to their completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from antiphon.config import StreamSchedule
from antiphon.outputs.request_output import OutputState
from antiphon.outputs.speech_worker import SpeechWorker
from antiphon.plain import told
from antiphon.process.faults import log_fault
from antiphon.sched.plan import StackPlan
from antiphon.sched.scheduler import Scheduler
from antiphon.types import Event, Finished, UnitDelta

__all__ = ["Replies"]

SPEECH_WAIT_S = 0.02
"""How long a step with nothing else to do waits for speech: who drives the engine may have news for it."""


class Replies:
    """The part of an engine that tells what became known, and has speech made of units."""

    def __init__(self, scheduler: Scheduler, worker: SpeechWorker | None) -> None:
        self._scheduler = scheduler
        self._worker = worker
        self.outputs: dict[str, OutputState] = {}
        """By the ids of requests whose `Finished` has not been told."""
        self.awaiting_audio: set[str] = set()
        """Requests that have ended and whose speech is still being made."""

    def take(self, output: OutputState, voice: str | None, schedule: StreamSchedule | None) -> None:
        """A new request, whose speech is made by this schedule. Where it raises, nothing of it is left."""
        request = output.request
        try:
            if request.speaks and self._worker is not None:
                self._worker.begin(request.request_id, voice, request.seed, schedule)
            self.outputs[request.request_id] = output
            self._scheduler.add(request)
        except BaseException:
            self.outputs.pop(request.request_id, None)
            self._scheduler.finish(request)
            if self._worker is not None:
                self._worker.abort(request.request_id)
            raise

    def poll(self, plan: StackPlan) -> Iterator[Event]:
        """What a pass has made known. A reply that cannot be told ends with "error", alone."""
        for chunk in plan.chunks:
            output = self.outputs[chunk.request.request_id]
            try:
                yield from self._told(output.poll())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                yield from self.fail(output, error)

    def reap(self) -> Iterator[Event]:
        """Finish what has ended. Its blocks are free before its sound is made."""
        for output in [o for o in self.outputs.values() if o.request.finished]:
            if output.request.request_id not in self.awaiting_audio:
                yield from self.finish(output)

    def abort(self, output: OutputState) -> list[Event]:
        """End a request, though its speech may still be in the making."""
        output.request.finish("abort")
        return self.finish(output)

    def fail(self, output: OutputState, error: BaseException) -> list[Event]:
        """End a request with "error", and say why."""
        request_id = output.request.request_id
        log_fault("request %s failed", request_id, error=error)
        output.error = told(error)
        output.request.finish("error")
        self.awaiting_audio.discard(request_id)
        return self.finish(output)

    def finish(self, output: OutputState) -> list[Event]:
        """A request has ended: it holds no block from here on. What it says may still be in the making."""
        request, request_id = output.request, output.request.request_id
        self._scheduler.finish(request)
        events: list[Event] = []
        try:
            events += self._told(output.close())
            if self._worker is not None and request.speaks and request.finish_reason in ("stop", "length"):
                self._worker.push(request_id, final=True)
                self.awaiting_audio.add(request_id)
                return events
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this reply's alone
            if output.error is None:
                log_fault("request %s failed", request_id, error=error)
                output.error = told(error)
                request.finish("error")
        if self._worker is not None and request.speaks:
            self._worker.abort(request_id)
            self.awaiting_audio.discard(request_id)
        events.append(Finished(request_id, output.completion()))
        del self.outputs[request_id]
        return events

    def collect_audio(self, *, may_wait: bool) -> Iterator[Event]:
        """What the speech worker has made; waits a moment for it where there is nothing else to do."""
        if self._worker is None:
            return
        waits = may_wait and self.awaiting_audio
        for spoken in self._worker.poll(SPEECH_WAIT_S if waits else 0.0):
            output = self.outputs.get(spoken.request_id)
            if output is None:
                continue  # what an earlier fault has left behind
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
                output.request.finish("error")
                self.awaiting_audio.discard(spoken.request_id)
                yield from self.finish(output)
            elif finished is not None:
                self.awaiting_audio.discard(spoken.request_id)
                del self.outputs[spoken.request_id]
                yield finished

    def clear(self) -> None:
        self.outputs.clear()
        self.awaiting_audio.clear()

    def _told(self, events: Iterable[Event]) -> Iterator[Event]:
        """Events on their way out; the speech worker is told of the units."""
        for event in events:
            if isinstance(event, UnitDelta) and self._worker is not None:
                self._worker.push(event.request_id, event.units)
            yield event
