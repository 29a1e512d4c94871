"""What comes back: the replies of all requests, from their first events to their completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from antiphon.config import StreamSchedule
from antiphon.output import OutputState
from antiphon.sched.plan import StackPlan
from antiphon.sched.scheduler import Scheduler
from antiphon.types import Event, Finished, UnitDelta
from antiphon.vocoder import Vocoder

__all__ = ["Replies"]

VOCODER_WAIT_S = 0.02
"""How long a step with nothing else to do waits for speech: who drives the engine may have news for it."""


class Replies:
    """The part of an engine that tells what became known, and has speech made of units."""

    def __init__(self, scheduler: Scheduler, vocoder: Vocoder | None) -> None:
        self._scheduler = scheduler
        self._vocoder = vocoder
        self.outputs: dict[str, OutputState] = {}
        """By the ids of requests whose `Finished` has not been told."""
        self.unheard: set[str] = set()
        """Requests that have ended and whose speech is still being made."""

    def take(self, output: OutputState, voice: str | None, schedule: StreamSchedule | None) -> None:
        """A new request, whose speech is made by this schedule. Where it raises, nothing of it is left."""
        request = output.request
        try:
            if request.speaks and self._vocoder is not None:
                self._vocoder.open(request.request_id, voice, request.seed, schedule)
            self.outputs[request.request_id] = output
            self._scheduler.add(request)
        except BaseException:
            self.outputs.pop(request.request_id, None)
            self._scheduler.finish(request)
            if self._vocoder is not None:
                self._vocoder.abort(request.request_id)
            raise

    def poll(self, plan: StackPlan) -> Iterator[Event]:
        """What a pass has made known."""
        for chunk in plan.chunks:
            yield from self._told(self.outputs[chunk.request.request_id].poll())

    def reap(self) -> list[Event]:
        """Finish what has ended. Its blocks are free before its sound is made."""
        ended = [r for r in self._scheduler.running if r.finished]
        ended += [r for r in self._scheduler.waiting if r.finished]
        events: list[Event] = []
        for request in ended:
            events += self.finish(self.outputs[request.request_id])
        return events

    def finish(self, output: OutputState) -> list[Event]:
        """A request has ended: it holds no block from here on. What it says may still be in the making."""
        request, request_id = output.request, output.request.request_id
        self._scheduler.finish(request)
        events = list(self._told(output.close()))
        if self._vocoder is not None and request.speaks:
            if request.finish_reason not in ("abort", "error"):
                self._vocoder.push(request_id, final=True)
                self.unheard.add(request_id)
                return events
            self._vocoder.abort(request_id)
            self.unheard.discard(request_id)
        del self.outputs[request_id]
        return [*events, Finished(request_id, output.completion())]

    def hear(self, *, may_wait: bool) -> list[Event]:
        """What the vocoder has made; waits a moment for it where there is nothing else to do."""
        if self._vocoder is None:
            return []
        waits = may_wait and self.unheard
        events: list[Event] = []
        for spoken in self._vocoder.poll(VOCODER_WAIT_S if waits else 0.0):
            output = self.outputs.get(spoken.request_id)
            if output is None:
                continue  # what an earlier fault has left behind
            if len(spoken.samples):
                events.append(output.hear(spoken.samples))
            if spoken.error is not None:
                output.error = spoken.error
                output.request.finish("error")
                self.unheard.discard(spoken.request_id)
                events += self.finish(output)
            elif spoken.is_last:
                self.unheard.discard(spoken.request_id)
                del self.outputs[spoken.request_id]
                events.append(Finished(spoken.request_id, output.completion()))
        return events

    def clear(self) -> None:
        self.outputs.clear()
        self.unheard.clear()

    def _told(self, events: Iterable[Event]) -> Iterator[Event]:
        """Events on their way out; the vocoder hears of the units."""
        for event in events:
            if isinstance(event, UnitDelta) and self._vocoder is not None:
                self._vocoder.push(event.request_id, event.units)
            yield event
