"""The simulation beside the engine that it simulates: the same requests, asked of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.serving.load import Limits, Run, closed_loop, open_loop
from antiphon.bench.serving.measuring import Load
from antiphon.bench.serving.questions import Question, mixed
from antiphon.bench.serving.summary import Summary, summarize
from antiphon.bench.serving.targets import EngineTarget
from antiphon.bench.simulate.costs import Costs
from antiphon.bench.simulate.fleet import simulate
from antiphon.bench.simulate.recorded import trace_of
from antiphon.bench.simulate.traffic import Arrival

__all__ = [
    "FIGURES",
    "NUM_TIMES",
    "TYPICAL",
    "Checked",
    "Figure",
    "check",
    "figures",
    "simulated",
    "summarize_all",
]

TIMEOUT_S = 600.0
NUM_TIMES = 8
"""How often each load is simulated. The machine's moments come in the order in which they were watched, and
where among them a run of five seconds begins moves its mean by some 7 %."""


@dataclass(frozen=True)
class Checked:
    """One load, measured, and simulated several times, run by run: each run asks the same at the same
    times."""

    load: str
    measured: Sequence[Run]
    simulated: Sequence[Sequence[Run]]
    """As many each time, beginning at other of the machine's moments"""


@dataclass(frozen=True)
class Figure:
    """One figure of a load."""

    measured: float
    """Over the requests of all runs"""
    least: float
    most: float
    """Of the runs, each by itself: what chance makes of it"""
    simulated: float
    """Over the requests of all runs of all times that it was simulated"""

    @property
    def apart(self) -> float:
        """How far the simulation is from what was measured, as a share of that."""
        return self.simulated / self.measured - 1

    @property
    def is_within(self) -> bool:
        """Whether one of the runs is as far off."""
        return self.least <= self.simulated <= self.most


FIGURES: dict[str, Callable[[Summary], float]] = {
    "speech, s/s": lambda s: s.audio_s_per_s,
    "first audio, mean": lambda s: s.spreads["ttfa_s"].mean,
    "median": lambda s: s.spreads["ttfa_s"].p50,
    "p95": lambda s: s.spreads["ttfa_s"].p95,
    "p99": lambda s: s.spreads["ttfa_s"].p99,
    "whole reply, median": lambda s: s.spreads["e2el_s"].p50,
}
TYPICAL = "p95 of typical"
"""The 95th percentile over the requests, each of which counts with the median of its runs: the tail that
comes from what is asked and when, without what only one run met"""


def figures(checked: Checked) -> dict[str, Figure]:
    """By name."""
    measured, ours = summarize_all(checked.measured), summarize_all(chain.from_iterable(checked.simulated))
    each = [summarize(run, "measured") for run in checked.measured]
    found = {}
    for name, figure in FIGURES.items():
        of_runs = [figure(summary) for summary in each]
        found[name] = Figure(figure(measured), min(of_runs), max(of_runs), figure(ours))
    if len(each) > 1 and not measured.failures:
        typical = _typical_p95(checked.measured)
        each_time = float(np.mean([_typical_p95(runs) for runs in checked.simulated]))
        found[TYPICAL] = Figure(typical, typical, typical, each_time)
    return found


def summarize_all(runs: Iterable[Run]) -> Summary:
    """Of the requests of several runs, one after the other."""
    return summarize(sum(runs, Run()), "all runs")


def _typical_p95(runs: Sequence[Run]) -> float:
    firsts_s = [[r.ttfa_s or 0.0 for r in sorted(run.replies, key=lambda r: r.due_s)] for run in runs]
    return float(np.percentile(np.median(np.array(firsts_s), axis=0), 95))


async def check(
    engine: AsyncEngine,
    questions: Sequence[Question],
    loads: Sequence[Load],
    times: Callable[[], Costs],
    between: Callable[[], Awaitable[None]],
    *,
    num_requests: int,
    repeats: int = 1,
    seed: int = 0,
    begun: Callable[[str], None] = lambda _: None,
) -> list[Checked]:
    """Asks the engine each question once, then `repeats` times the same as each load says, and at last the
    simulation of it likewise. The loads take turns, and so does whatever measures the engine: the speed of
    shared machines drifts.

    between: awaited before each turn and after the last. times: what was measured, when all has been.
    """
    target, limits = EngineTarget(engine), Limits(num_requests, timeout_s=TIMEOUT_S)
    begun("warming up")
    once = Limits(len(questions), timeout_s=TIMEOUT_S)
    warm = trace_of(await closed_loop(target, mixed(questions, seed), 1, once))
    answered: list[list[Run]] = [[] for _ in loads]
    for repeat in range(repeats):
        begun("measuring the engine")
        await between()
        for load, runs in zip(loads, answered, strict=True):
            begun(f"{load}, {repeat + 1} of {repeats}")
            order = mixed(questions, seed)
            if load.rate is not None:
                run = await open_loop(target, order, load.rate, limits, seed)
            else:
                assert load.concurrency is not None
                run = await closed_loop(target, order, load.concurrency, limits)
            runs.append(run)
    begun("measuring the engine")
    await between()
    begun("simulating")
    costs = times()
    return [
        Checked(
            str(load),
            runs,
            [
                [
                    simulated(trace_of(run), costs, warm=warm, clients=load.concurrency, seed=first + number)
                    for number, run in enumerate(runs)
                ]
                for first in range(seed, seed + NUM_TIMES * repeats, repeats)
            ],
        )
        for load, runs in zip(loads, answered, strict=True)
    ]


def simulated(
    arrivals: Sequence[Arrival],
    costs: Costs,
    *,
    warm: Sequence[Arrival] = (),
    clients: int | None = None,
    seed: int = 0,
) -> Run:
    """One replica's replies, as a client would have seen them. seed: of which of the machine's moments come
    first."""
    found = simulate(arrivals, costs, 1, warm=warm, clients=clients, seed=seed)
    return Run([outcome.measured for outcome in found.outcomes], found.duration_s)
