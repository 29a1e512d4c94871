"""When requests are sent: N at a time (a closed loop), or at a rate, whether earlier ones are done or not (an
open loop)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from antiphon.bench.serving.questions import Question
from antiphon.bench.serving.reply import Failed, Measured, Reply
from antiphon.bench.serving.targets import Target

__all__ = ["LATE_S", "Limits", "Run", "arrivals", "closed_loop", "open_loop"]

LATE_S = 0.01
"""A request that is sent this long after it was due is late: the load generator could not keep up."""


@dataclass(frozen=True)
class Limits:
    """When a run ends, whichever comes first, and when a request has failed."""

    num_requests: int | None = None
    duration_s: float | None = None
    """No request is sent after this; those under way are waited for."""
    timeout_s: float = 600.0
    """Of one request."""


@dataclass
class Run:
    """What was measured with one load on one target."""

    replies: list[Measured] = field(default_factory=list)
    duration_s: float = 0.0
    """From the first request to the end of the last reply."""
    num_late: int = 0
    asked: list[Question] = field(default_factory=list)
    """What each reply answers."""
    begun_s: float = 0.0
    """When it began, on the clock of `time.perf_counter`; of several, the first."""

    def __add__(self, other: Run) -> Run:
        """Both, one after the other."""
        return Run(
            self.replies + other.replies,
            self.duration_s + other.duration_s,
            self.num_late + other.num_late,
            self.asked + other.asked,
            self.begun_s or other.begun_s,
        )


def arrivals(rate: float, limits: Limits, seed: int) -> Iterator[float]:
    """The moments, in seconds from the beginning, at which requests of a Poisson process are due: the same
    for the same seed."""
    rng, due_s, number = random.Random(seed), 0.0, 0
    while limits.num_requests is None or number < limits.num_requests:
        due_s += rng.expovariate(rate)
        if limits.duration_s is not None and due_s > limits.duration_s:
            return
        yield due_s
        number += 1


async def closed_loop(
    target: Target,
    questions: Iterator[Question],
    concurrency: int,
    limits: Limits,
    noted: Callable[[Measured], None] = lambda _: None,
) -> Run:
    """`concurrency` clients, of which each asks as soon as it has its reply, or where people speak, as soon
    as it has heard it.

    noted: called with each reply as it ends.
    """
    num_asked, begun_s = 0, time.perf_counter()
    run = Run(begun_s=begun_s)

    async def client() -> None:
        nonlocal num_asked
        while limits.num_requests is None or num_asked < limits.num_requests:
            now_s = time.perf_counter()
            if limits.duration_s is not None and now_s - begun_s >= limits.duration_s:
                return
            num_asked += 1
            question = next(questions)
            run.replies.append(await _ask(target, question, now_s, limits.timeout_s))
            run.asked.append(question)
            noted(run.replies[-1])
            if target.is_heard:
                await asyncio.sleep(run.replies[-1].left_s)

    await _together({asyncio.create_task(client()) for _ in range(concurrency)})
    run.duration_s = time.perf_counter() - begun_s
    return run


async def open_loop(
    target: Target,
    questions: Iterator[Question],
    rate: float,
    limits: Limits,
    seed: int,
    noted: Callable[[Measured], None] = lambda _: None,
) -> Run:
    """Requests arrive at `rate` a second, at the moments of `arrivals`. Times count from when a request was
    due, so that a wait before it is sent is not lost."""
    begun_s = time.perf_counter()
    run = Run(begun_s=begun_s)

    async def ask(question: Question, due_s: float) -> None:
        run.num_late += time.perf_counter() - due_s > LATE_S
        run.replies.append(await _ask(target, question, due_s, limits.timeout_s))
        run.asked.append(question)
        noted(run.replies[-1])

    tasks: set[asyncio.Task[None]] = set()
    try:
        for offset_s in arrivals(rate, limits, seed):
            due_s = begun_s + offset_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.add(asyncio.create_task(ask(next(questions), due_s)))
    except BaseException:
        await _cancel(tasks)
        raise
    await _together(tasks)
    run.duration_s = time.perf_counter() - begun_s
    return run


async def _ask(target: Target, question: Question, due_s: float, timeout_s: float) -> Measured:
    reply, failure = Reply(question.kind, due_s), None
    try:
        await asyncio.wait_for(target.ask(question, reply), timeout_s)
    except Failed as failed:
        failure = failed.kind
    except asyncio.TimeoutError:
        failure = "timeout"
    return reply.end(time.perf_counter(), failure)


async def _together(tasks: set[asyncio.Task[None]]) -> None:
    """Waits for all; if one fails, or this is cancelled, none goes on."""
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        await _cancel(tasks)
        raise


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(BaseException):
            await task
