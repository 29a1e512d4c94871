"""What an engine's parts take on this machine, found by watching it serve.

It is asked as it is in service, by several clients, with pauses and without: there, weights have left the
caches, threads sleep and wake, several of them want the interpreter, and no part is as fast as it is alone in
a loop.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, cycle

import numpy as np

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.engine import paced_speaking
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.bench.simulate.costs import PREPARE, Served
from antiphon.bench.simulate.fitting import fit, fit_wake
from antiphon.bench.simulate.measured import MeasuredCosts
from antiphon.bench.simulate.watching import INTAKE, READ, SPOKEN, STEP, Piece, Watched, watching
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.types import Request, SamplingParams, Units

__all__ = ["Calibration", "Clients"]


@dataclass(frozen=True)
class Clients:
    """A load: each client asks again after a pause."""

    number: int
    num_requests: int
    pause_s: float = 0.0
    """At most"""


PAUSING = (Clients(1, 8), Clients(1, 10, 0.5), Clients(1, 8, 2.0))
"""One client, who lets the machine rest or not: how long a request is passed on is known of these"""
LOADS = (*PAUSING, Clients(2, 8, 0.3), Clients(4, 12), Clients(8, 16), Clients(24, 24))
"""Of each round"""
READING_PAUSE_S = 0.05
PROMPT_UNITS = (10, 40, 100)
MIN_UNITS, MAX_UNITS = 15, 60
"""Of a reply"""
PACE = 0.15
"""Text tokens that a unit asks for: what trained models say in a second of speech is of this order."""
MODALITIES = ("text", "audio")


class Calibration:
    """Rounds of watching an engine, which may lie apart: the speed of shared machines drifts.

    The engine has a codec and serves nobody else; after each round it is as it was. A round
    takes 25 seconds.
    """

    def __init__(self, asked: AsyncEngine, questions: Sequence[Question] | None = None) -> None:
        assert asked.engine.codec is not None, "speech is measured, too"
        self._asked = asked
        self._questions = read_workload() if questions is None else questions
        self._rng = random.Random(0)
        self._first: list[Piece] = []
        self._rounds: list[list[Piece]] = []
        self._relayed: list[tuple[float, float]] = []
        """Pauses, and from their ends until the engine's thread took a request, without reading it"""

    async def watch(self) -> None:
        """One round."""
        asked, questions, rng = self._asked, self._questions, self._rng
        with _paced(asked.engine):
            if not self._rounds:
                await _serve(asked, Clients(len(PROMPT_UNITS), 4 * len(PROMPT_UNITS)), iter(()), rng)
                with watching(asked.engine) as first:
                    once = Clients(1, len(questions))
                    await _serve(asked, once, iter(questions), rng, only_questions=True)
                self._first = [piece for piece in first.pieces if piece.pictures and piece.name != READ]
            with watching(asked.engine) as watched:
                for question in questions:
                    await asyncio.to_thread(asked.engine.prepare, question.request())
                    await asyncio.sleep(READING_PAUSE_S)
                for load in LOADS:
                    pauses = await _serve(asked, load, cycle(questions), rng)
                    if load in PAUSING:
                        self._relayed += _relayed(watched, pauses)
        self._rounds.append(watched.pieces)

    def costs(self) -> MeasuredCosts:
        """What all rounds tell."""
        engine, found = self._asked.engine, fit(list(chain.from_iterable(self._rounds)), self._first)
        alone_s, per_s, per_picture = found.read
        pauses_s, late_s = np.array(self._relayed or [(0.0, 0.0)]).T
        relayed = fit_wake(pauses_s, late_s)
        reading = found.wake[PREPARE]
        return MeasuredCosts(
            served=_served(engine, _side(engine, self._questions)),
            passes={name: curve for name, curve in found.curves.items() if name not in (STEP, SPOKEN)},
            step=found.curves[STEP],
            speech=found.curves[SPOKEN],
            prepare=(alone_s + relayed.alone_s, per_s, per_picture),
            intake=found.intake,
            wake={**found.wake, PREPARE: replace(reading, per_s=reading.per_s + relayed.per_s)},
            tile=found.tile,
            slowed=found.slowed,
            rates=found.rates,
            machine=cpu_name(),
        )


@contextmanager
def _paced(engine: Engine) -> Iterator[None]:
    """Speech asks for its text at a pace: random units would ask for it at an arbitrary one."""
    scheduler = engine.scheduler
    before, scheduler.speaking = scheduler.speaking, paced_speaking(PACE)
    try:
        yield
    finally:
        scheduler.speaking = before


async def _serve(
    asked: AsyncEngine,
    load: Clients,
    questions: Iterator[Question],
    rng: random.Random,
    *,
    only_questions: bool = False,
) -> list[tuple[float, float]]:
    """Every other request is a question; the rest are random units, which no prompt cache knows. Returns the
    pauses before questions: when each was to be over, and its length."""
    left = load.num_requests
    pauses = list[tuple[float, float]]()

    async def client() -> None:
        nonlocal left
        pause_s, over_s = 0.0, time.perf_counter()
        while left > 0:
            left -= 1
            question = next(questions, None) if only_questions or left % 2 else None
            request = _units(asked.engine, rng) if question is None else question.request()
            if question is not None:
                pauses.append((over_s, pause_s))
            units = rng.randint(MIN_UNITS, MAX_UNITS)
            params = SamplingParams(temperature=0.0, max_units=units, ignore_eos=True)
            async for _ in asked.stream(request, params):
                pass
            pause_s = rng.uniform(0, load.pause_s)
            over_s = time.perf_counter() + pause_s
            if pause_s:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(client() for _ in range(load.number)))
    return pauses


def _units(engine: Engine, rng: random.Random) -> Request:
    vocab, count = engine.model_config.audio_vocab_size, rng.choice(PROMPT_UNITS)
    return Request(Units(rng.choices(range(vocab), k=count)), modalities=MODALITIES, system="")


def _relayed(watched: Watched, pauses: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """From when each pause was to be over until the engine's thread took the request, but for reading it: how
    long one is passed on from thread to thread while there is nothing else to do. Each behind the pause."""
    pieces = sorted(watched.pieces, key=lambda piece: piece.begun_s)
    reads, taken = ([p for p in pieces if p.name == name] for name in (READ, INTAKE))
    found = []
    for over_s, pause_s in pauses:
        read = next((p for p in reads if p.begun_s >= over_s), None)
        took = None if read is None else next((p for p in taken if p.begun_s >= read.ended_s), None)
        if read is not None and took is not None:
            found.append((pause_s, took.begun_s - over_s - read.own_s))
    return found


def _served(engine: Engine, side: int) -> Served:
    codec = engine.codec
    assert codec is not None
    prompt = engine.prepare(Request(Units([0]), modalities=MODALITIES))
    return Served(
        name=engine.model_name,
        model=engine.model_config,
        cache=engine.cache_config,
        settings=engine.config,
        max_batch_frames=codec.max_batch_frames,
        ladder=codec.decoder.ladder,
        num_speech_threads=codec.num_workers,
        num_prompt_ids=len(prompt.ids) - 1,
        picture_side=side,
        picture_tiles=1,
    )


def _side(engine: Engine, questions: Sequence[Question]) -> int:
    """The side of a square of as many positions as a picture takes on average."""
    shown = [engine.prepare(q.request()).images for q in questions if q.picture is not None]
    positions = [image.num_positions for images in shown for image in images]
    return max(1, round(statistics.mean(positions) ** 0.5)) if positions else 1
