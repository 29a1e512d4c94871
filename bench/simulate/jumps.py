"""Steps that need no scheduler: as long as the same requests run and none needs text, each step gives each of
them a unit, and nothing else changes.

A jump is exactly these steps: it takes the sum of their times, each with its own context, and leaves requests
and pool as they would. It ends before the first step in which a request would end, wait for text or find no
block; and a replica ends it early, at the end of the step that is under way, when anything comes that the
scheduler has to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from antiphon.bench.simulate.costs import Costs
from antiphon.bench.simulate.speaking import EvenSpeaking
from antiphon.bench.simulate.stacks import LABEL, decode_works
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler

__all__ = ["Jump", "plan_jump"]

MOST_STEPS = 64


@dataclass(frozen=True)
class Jump:
    """Unit steps of some requests."""

    requests: Sequence[RequestState]
    ends_s: Sequence[float]
    """When each step ends, from the beginning of the first, on a machine that does nothing else"""

    def make(self, scheduler: Scheduler, unit: int, steps: int) -> None:
        """Leave everything as the first `steps` of the steps do."""
        for request in self.requests if steps else ():
            track, speaking = request.speech, request.speaking
            assert track is not None
            assert isinstance(speaking, EvenSpeaking)
            units = [unit] * steps
            request.unit_ids += units
            for each in units:
                track.append(each)
            reserved = track.reserve(scheduler.pool, len(track))
            assert reserved, "a jump has room for its units"
            track.num_computed += steps
            request.top_computed += steps
            speaking.read_back_many(steps, LABEL, request.text_ids)


def plan_jump(scheduler: Scheduler, costs: Costs) -> Jump | None:
    """The steps that can be made at once; None: the next step is one for the scheduler."""
    requests, steps = list[RequestState](), MOST_STEPS
    if not _may_jump(scheduler):
        return None
    for request in scheduler.running:
        if request.is_growing and not request.has_work:
            continue  # its user is silent: it is in no plan
        track, speaking = request.speech, request.speaking
        if (
            not isinstance(speaking, EvenSpeaking)
            or track is None
            or not request.is_decoding
            or speaking.waits
            or not track.num_computed == len(track) == request.top_computed + 1
            or request.top_computed < request.num_speech_prompt
        ):
            return None
        steps = min(steps, request.params.max_units - len(request.unit_ids) - 1)
        if steps > 1:
            steps = speaking.steps_without_text(len(request.text_ids), steps, text_ended=request.text_ended)
        if steps < 2:
            return None
        requests.append(request)
    if not requests or len(requests) > scheduler.max_num_batched_tokens:
        return None
    missing = 0
    for request in requests:
        assert request.speech is not None
        missing += request.speech.blocks_missing(len(request.speech) + steps)
    if missing > scheduler.pool.num_free:
        return None
    rows = len(requests)
    context = sum(request.num_speech_known for request in requests)
    beside_s = costs.step_s(rows)
    times = (costs.pass_s(work) + beside_s for work in decode_works(rows, context, steps))
    return Jump(requests, list(accumulate(times)))


def _may_jump(scheduler: Scheduler) -> bool:
    """Whether nobody would be admitted while the same requests run."""
    if scheduler.trials or scheduler.elsewhere is not None:
        return False
    if not scheduler.num_waiting - len(scheduler.resting):
        return True
    is_full = len(scheduler.running) == scheduler.max_num_seqs
    return is_full and not any(r.is_speculative or r.is_growing for r in scheduler.running)
