"""All engines with the same prompts, one after another, in turns whose order is reversed each time."""

from __future__ import annotations

import random
import statistics
import string
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from antiphon.bench.peers.process import WorkerProcess
from antiphon.bench.peers.weights import Written
from antiphon.errors import AntiphonError

__all__ = ["OURS", "ROWS", "PeerRow", "PeerRun", "bench_peers"]

OURS = "Antiphon"
PAUSE_S = 0.05
"""In which the threads of the engine before fall asleep"""


class PeerRow(NamedTuple):
    """An engine with weights of some format."""

    program: str
    format: str
    bits: int

    @property
    def name(self) -> str:
        return f"{self.program} {self.format}"


ROWS = (
    PeerRow(OURS, "float32", 32),
    PeerRow("llama.cpp", "F32", 32),
    PeerRow("transformers", "float32", 32),
    PeerRow("vLLM", "float32", 32),
    PeerRow(OURS, "bfloat16", 16),
    PeerRow(OURS, "float16", 16),
    PeerRow("llama.cpp", "BF16", 16),
    PeerRow("llama.cpp", "F16", 16),
    PeerRow(OURS, "int8", 8),
    PeerRow(OURS, "int8-weight-only", 8),
    PeerRow("llama.cpp", "Q8_0", 8),
)


@dataclass(frozen=True)
class PeerRun:
    """Of one row and one number of requests: medians over the turns."""

    name: str
    bits: int
    num_requests: int
    tokens_per_s: float
    """New ids of all requests, over the whole time, prompts included"""
    least_tokens_per_s: float
    most_tokens_per_s: float
    after_first_per_s: float | None
    """The same without the time to the first ids, if the engine tells it"""
    ours_beside: float
    """How many times as many the fastest of our rows with as many bits makes, turn by turn"""
    same_ids: int
    """Requests with the ids of our float32, of all turns"""
    num_compared: int
    others: float
    """The share of the machine that other processes took meanwhile: above 0.05, the figure is disturbed."""


class _Turn(NamedTuple):
    ids: list[list[int]]
    total_s: float
    first_s: float | None
    others: float


def bench_peers(
    written: Written,
    pythons: dict[str, str],
    *,
    batch_sizes: list[int],
    prompt_chars: int,
    tokens: int,
    threads: int,
    repeats: int,
    say: Callable[[str], None],
    seed: int = 0,
) -> list[PeerRun]:
    """pythons: by program, an interpreter that has it. say: is told what is loaded, and what is left out.

    Raises AntiphonError if our own engine does not load, or one fails while it works.
    """
    rng = random.Random(seed)
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for program in dict.fromkeys(row.program for row in ROWS if row.program in pythons):
            formats = [row.format for row in ROWS if row.program == program]
            try:
                worker = WorkerProcess(
                    program,
                    pythons[program],
                    threads,
                    rows=formats,
                    model=str(written.model),
                    llm=str(written.llm),
                    most=max(batch_sizes),
                )
            except AntiphonError as error:
                if program == OURS:
                    raise
                say(f"left out: {error}")
                continue
            workers[program] = stack.enter_context(worker)
            say(f"loaded: {worker.about}")
        rows = [row for row in ROWS if row.program in workers]
        runs = []
        for size in batch_sizes:
            turns: dict[PeerRow, list[_Turn]] = {row: [] for row in rows}
            for turn in range(repeats + 1):
                texts = ["".join(rng.choices(string.ascii_lowercase, k=prompt_chars)) for _ in range(size)]
                prompts = [workers[OURS].prompt_ids(text) for text in texts]
                for row in rows if turn % 2 else reversed(rows):
                    time.sleep(PAUSE_S)
                    found = workers[row.program].generate(row.format, prompts, tokens if turn else 2)
                    if turn:  # the first one warms up
                        turns[row].append(
                            _Turn(found["ids"], found["total_s"], found["first_s"], found["others"])
                        )
                if turn:
                    say(f"{size} at a time: turn {turn} of {repeats}")
            runs += [_summary(row, turns, size, tokens) for row in rows]
    return runs


def _summary(row: PeerRow, turns: dict[PeerRow, list[_Turn]], size: int, tokens: int) -> PeerRun:
    own = turns[row]
    rates = [size * tokens / turn.total_s for turn in own]
    ours = [turns[other] for other in turns if other.program == OURS and other.bits == row.bits]
    fastest = min(ours, key=lambda taken: statistics.median(turn.total_s for turn in taken))
    later = [size * (tokens - 1) / (turn.total_s - turn.first_s) for turn in own if turn.first_s is not None]
    expected = turns[next(other for other in turns if other.program == OURS and other.bits == 32)]
    same = [
        one == other
        for a, b in zip(own, expected, strict=True)
        for one, other in zip(a.ids, b.ids, strict=True)
    ]
    return PeerRun(
        name=row.name,
        bits=row.bits,
        num_requests=size,
        tokens_per_s=statistics.median(rates),
        least_tokens_per_s=min(rates),
        most_tokens_per_s=max(rates),
        after_first_per_s=statistics.median(later) if later else None,
        ours_beside=_median_ratio((turn.total_s for turn in own), (turn.total_s for turn in fastest)),
        same_ids=sum(same),
        num_compared=len(same),
        others=statistics.median(turn.others for turn in own),
    )


def _median_ratio(times: Iterable[float], of: Iterable[float]) -> float:
    return statistics.median(one / other for one, other in zip(times, of, strict=True))
