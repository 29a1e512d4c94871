"""The simulation beside the engine that it simulates: the same requests, asked of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

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

__all__ = ["FIGURES", "Checked", "check", "figures", "simulated"]

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Checked:
    """One load, measured and simulated."""

    load: str
    measured: Summary
    simulated: Summary


FIGURES: dict[str, Callable[[Summary], float]] = {
    "speech, s/s": lambda s: s.audio_s_per_s,
    "all, s": lambda s: s.duration_s,
    "first audio, mean": lambda s: s.spreads["ttfa_s"].mean,
    "median": lambda s: s.spreads["ttfa_s"].p50,
    "p95": lambda s: s.spreads["ttfa_s"].p95,
    "p99": lambda s: s.spreads["ttfa_s"].p99,
    "whole reply, median": lambda s: s.spreads["e2el_s"].p50,
}


def figures(checked: Checked) -> dict[str, tuple[float, float, float]]:
    """By name: measured, simulated, and the second's distance from the first as a share of it."""
    found = {}
    for name, figure in FIGURES.items():
        measured, simulated = figure(checked.measured), figure(checked.simulated)
        found[name] = (measured, simulated, simulated / measured - 1)
    return found


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
    """Asks the engine each question once, then as each load says, and at last the simulation of it the same.

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
        begun(f"{load}")
        answered.append([])
        for repeat in range(repeats):
            order = mixed(questions, seed + repeat)
            if load.rate is not None:
                run = await open_loop(target, order, load.rate, limits, seed + repeat)
            else:
                assert load.concurrency is not None
                run = await closed_loop(target, order, load.concurrency, limits)
            answered[-1].append(run)
    begun("measuring the engine")
    await between()
    begun("simulating")
    found = []
    for number, (load, runs) in enumerate(zip(loads, answered, strict=True)):
        costs, measured, ours = times(number), Run(), Run()
        for run in runs:
            measured += run
            ours += simulated(trace_of(run), costs, warm=warm, clients=load.concurrency)
        found.append(Checked(str(load), summarize(measured, "measured"), summarize(ours, "simulated")))
    return found


def simulated(
    arrivals: Sequence[Arrival], costs: Costs, *, warm: Sequence[Arrival] = (), clients: int | None = None
) -> Run:
    """One replica's replies, as a client would have seen them."""
    found = simulate(arrivals, costs, 1, warm=warm, clients=clients)
    return Run([outcome.measured for outcome in found.outcomes], found.duration_s)
