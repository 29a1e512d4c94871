"""The order of the passes of one step: the same for the engine, its probe and the scheduler's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from antiphon.sched.plan import Spoken, StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler

__all__ = ["Stacks", "step"]


class Stacks(Protocol):
    """Computes plans, as `Runner` does; results are as `Scheduler.complete_...` takes them."""

    def start(self, request: RequestState, /) -> None: ...

    def run_bottom(self, plan: StackPlan, /) -> Sequence[Sequence[int]]: ...

    def run_text(self, plan: StackPlan, /) -> Sequence[int]: ...

    def run_top(self, plan: StackPlan, /) -> Spoken: ...


def _ignore(plan: StackPlan) -> None:
    pass


def step(
    scheduler: Scheduler,
    stacks: Stacks,
    *,
    before: Callable[[StackPlan], None] = _ignore,
    after: Callable[[StackPlan], None] = _ignore,
    may_speak: bool = True,
) -> bool:
    """Make one pass through each stack that has work. False if no stack has any.

    The order follows the data: the bottom layers hear, the LLM thinks if a request waits for text, the top
    layers speak. An LLM elsewhere is asked, and what it has thought is taken, where ours would think. before,
    after: called around each pass, `after` once the scheduler has its results. may_speak: see
    `Scheduler.admit`.
    """
    for request in scheduler.admit(may_speak=may_speak):
        stacks.start(request)
    computed = False
    if (plan := scheduler.schedule_bottom()).chunks:
        before(plan)
        scheduler.complete_bottom(plan, stacks.run_bottom(plan))
        after(plan)
        computed = True
    if (elsewhere := scheduler.elsewhere) is not None:
        if (plan := scheduler.schedule_asking()).chunks:
            before(plan)
            elsewhere.ask(plan)
            scheduler.complete_asking(plan)
            after(plan)
            computed = True
        if (plan := scheduler.take_text(elsewhere.take())).chunks:
            after(plan)
            computed = True
    if (plan := scheduler.schedule_text()).chunks:
        before(plan)
        scheduler.complete_text(plan, stacks.run_text(plan))
        after(plan)
        computed = True
    if (plan := scheduler.schedule_top()).chunks:
        before(plan)
        scheduler.complete_top(plan, stacks.run_top(plan))
        after(plan)
        computed = True
    return computed
