"""The simulation beside the engine that it simulates: the same requests, asked of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

__all__ = ["FIGURES", "Answered", "Checked", "ask", "compare", "figures", "simulated"]

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


@dataclass(frozen=True)
class Answered:
    """What an engine was asked, and what it answered."""

    warm: list[Arrival]
    """Before all that counts, one after the other"""
    loads: list[tuple[Load, list[Run]]]


async def ask(
    engine: AsyncEngine,
    questions: Sequence[Question],
    loads: Sequence[Load],
    *,
    num_requests: int,
    repeats: int = 1,
    seed: int = 0,
    begun: Callable[[str], None] = lambda _: None,
) -> Answered:
    """Asks the engine each question once, and then as the loads say."""
    target, limits = EngineTarget(engine), Limits(num_requests, timeout_s=TIMEOUT_S)
    begun("warming up")
    once = Limits(len(questions), timeout_s=TIMEOUT_S)
    found = Answered(trace_of(await closed_loop(target, mixed(questions, seed), 1, once)), [])
    for load in loads:
        begun(f"{load}")
        runs = []
        for repeat in range(repeats):
            order = mixed(questions, seed + repeat)
            if load.rate is not None:
                runs.append(await open_loop(target, order, load.rate, limits, seed + repeat))
            else:
                assert load.concurrency is not None
                runs.append(await closed_loop(target, order, load.concurrency, limits))
        found.loads.append((load, runs))
    return found


def compare(answered: Answered, costs: Costs) -> list[Checked]:
    """Asks the simulation the same."""
    found = []
    for load, runs in answered.loads:
        measured, ours = Run(), Run()
        for run in runs:
            measured += run
            ours += simulated(trace_of(run), costs, warm=answered.warm, clients=load.concurrency)
        found.append(Checked(str(load), summarize(measured, "measured"), summarize(ours, "simulated")))
    return found


def simulated(
    arrivals: Sequence[Arrival], costs: Costs, *, warm: Sequence[Arrival] = (), clients: int | None = None
) -> Run:
    """One replica's replies, as a client would have seen them."""
    found = simulate(arrivals, costs, 1, warm=warm, clients=clients)
    return Run([outcome.measured for outcome in found.outcomes], found.duration_s)
