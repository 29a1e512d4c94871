"""Loads on targets, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from antiphon.bench.serving.load import Limits, Run, closed_loop, open_loop
from antiphon.bench.serving.questions import Question, mixed
from antiphon.bench.serving.reply import Measured
from antiphon.bench.serving.summary import Summary, summarize
from antiphon.bench.serving.targets import Target
from antiphon.errors import AntiphonError

__all__ = ["Load", "Plan", "measure"]


@dataclass(frozen=True)
class Load:
    """A number of requests at a time, or a rate."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} at a time" if self.rate is None else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    loads: Sequence[Load]
    questions: Sequence[Question]
    limits: Limits
    repeats: int = 1
    num_warmups: int = 2
    """Requests to each target that do not count."""
    seed: int = 0


async def measure(
    plan: Plan,
    targets: Sequence[Target],
    begun: Callable[[Target, Load], None] = lambda *_: None,
    noted: Callable[[Measured], None] = lambda _: None,
    ended: Callable[[Target, Load, Run], None] = lambda *_: None,
) -> list[Summary]:
    """A summary for each load and target. Targets take turns, and each is asked the same in the same order.

    begun, noted, ended: called when a run begins, for each reply, and with each run. Raises
    AntiphonError if no warm-up succeeds.
    """
    for target in targets:
        await _warm_up(plan, target)
    summaries = []
    for load in plan.loads:
        runs = [Run() for _ in targets]
        for repeat in range(plan.repeats):
            seed = plan.seed + repeat
            turns = list(enumerate(targets))
            for number, target in reversed(turns) if repeat % 2 else turns:  # so that no drift favours one
                begun(target, load)
                run = await _run(plan, target, load, seed, noted)
                ended(target, load, run)
                runs[number] += run
        summaries += [
            summarize(run, target.name, concurrency=load.concurrency, rate=load.rate)
            for run, target in zip(runs, targets, strict=True)
        ]
    return summaries


async def _run(plan: Plan, target: Target, load: Load, seed: int, noted: Callable[[Measured], None]) -> Run:
    questions = mixed(plan.questions, seed)
    if load.rate is not None:
        return await open_loop(target, questions, load.rate, plan.limits, seed, noted)
    assert load.concurrency is not None
    return await closed_loop(target, questions, load.concurrency, plan.limits, noted)


async def _warm_up(plan: Plan, target: Target) -> None:
    if not plan.num_warmups:
        return
    limits = Limits(num_requests=plan.num_warmups, timeout_s=plan.limits.timeout_s)
    run = await closed_loop(target, mixed(plan.questions, plan.seed), 1, limits)
    kinds = {reply.failure for reply in run.replies}
    if None not in kinds:
        raise AntiphonError(f"{target.name}: no request was answered: {', '.join(sorted(map(str, kinds)))}")
