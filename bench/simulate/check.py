"""The simulation beside the engine that it simulates: the same requests, asked of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

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

__all__ = ["FIGURES", "TYPICAL", "Checked", "Figure", "check", "figures", "simulated", "summarize_all"]

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Checked:
    """One load, measured and simulated, run by run: each run asks the same at the same times."""

    load: str
    measured: Sequence[Run]
    simulated: Sequence[Run]


@dataclass(frozen=True)
class Figure:
    """One figure of a load."""

    measured: float
    """Over the requests of all runs"""
    least: float
    most: float
    """Of the runs, each by itself: what chance makes of it"""
    simulated: float
    """Over the requests of all runs, like `measured`"""

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
    measured, ours = summarize_all(checked.measured), summarize_all(checked.simulated)
    each = [summarize(run, "measured") for run in checked.measured]
    found = {}
    for name, figure in FIGURES.items():
        of_runs = [figure(summary) for summary in each]
        found[name] = Figure(figure(measured), min(of_runs), max(of_runs), figure(ours))
    if len(each) > 1 and not measured.failures:
        typical = _typical_p95(checked.measured)
        found[TYPICAL] = Figure(typical, typical, typical, _typical_p95(checked.simulated))
    return found


def summarize_all(runs: Sequence[Run]) -> Summary:
    """Of the requests of several runs, one after the other."""
    return summarize(sum(runs, Run()), "all runs")


def _typical_p95(runs: Sequence[Run]) -> float:
    firsts_s = [[r.ttfa_s or 0.0 for r in sorted(run.replies, key=lambda r: r.due_s)] for run in runs]
    return float(np.percentile(np.median(np.array(firsts_s), axis=0), 95))


async def check(
    engine: AsyncEngine,
    questions: Sequence[Question],
    loads: Sequence[Load],
    times: Callable[[int], Costs],
    between: Callable[[], Awaitable[None]],
    *,
    num_requests: int,
    repeats: int = 1,
    seed: int = 0,
    begun: Callable[[str], None] = lambda _: None,
) -> list[Checked]:
    """Asks the engine each question once, then as each load says, `repeats` times the same, and at last the
    simulation of it likewise.

    between: awaited before each load and after the last. times: those of the load of this number.
    """
    target, limits = EngineTarget(engine), Limits(num_requests, timeout_s=TIMEOUT_S)
    begun("warming up")
    once = Limits(len(questions), timeout_s=TIMEOUT_S)
    warm = trace_of(await closed_loop(target, mixed(questions, seed), 1, once))
    answered: list[list[Run]] = []
    for load in loads:
        begun("measuring the engine")
        await between()
        answered.append([])
        for repeat in range(repeats):
            begun(f"{load}, {repeat + 1} of {repeats}")
            order = mixed(questions, seed)
            if load.rate is not None:
                run = await open_loop(target, order, load.rate, limits, seed)
            else:
                assert load.concurrency is not None
                run = await closed_loop(target, order, load.concurrency, limits)
            answered[-1].append(run)
    begun("measuring the engine")
    await between()
    begun("simulating")
    found = []
    for number, (load, runs) in enumerate(zip(loads, answered, strict=True)):
        costs = times(number)
        ours = [
            simulated(trace_of(run), costs, warm=warm, clients=load.concurrency, seed=seed + repeat)
            for repeat, run in enumerate(runs)
        ]
        found.append(Checked(str(load), runs, ours))
    return found


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
