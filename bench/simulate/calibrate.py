"""What an engine's parts take on this machine, found by watching it serve.

It is asked as it is in service, by several clients, with pauses and without: there, weights have left the
caches, threads sleep and wake, several of them want the interpreter, and no part is as fast as it is alone in
a loop.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.engine import paced_speaking
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.bench.simulate.costs import Served
from antiphon.bench.simulate.fitting import fit
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


LOADS = (Clients(1, 10, 0.5), Clients(2, 8, 0.3), Clients(4, 12), Clients(8, 16), Clients(24, 24))
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
    takes half a minute.
    """

    def __init__(self, asked: AsyncEngine, questions: Sequence[Question] | None = None) -> None:
        assert asked.engine.codec is not None, "speech is measured, too"
        self._asked = asked
        self._questions = read_workload() if questions is None else questions
        self._rng = random.Random(0)
        self._first: list[Piece] = []
        self._rounds: list[list[Piece]] = []
        self._relayed_s: list[float] = []

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
                for number, load in enumerate(LOADS):
                    await _serve(asked, load, cycle(questions), rng)
                    if not number:
                        self._relayed_s += _relayed_s(watched)
        self._rounds.append(watched.pieces)

    def costs(self, first: int = 0, count: int | None = None) -> MeasuredCosts:
        """What these rounds tell; None: all from the first on."""
        rounds = self._rounds[first:] if count is None else self._rounds[first : first + count]
        engine, found = self._asked.engine, fit(list(chain.from_iterable(rounds)), self._first)
        alone_s, per_s, per_picture = found.read
        relayed_s = statistics.median(self._relayed_s) if self._relayed_s else 0.0
        return MeasuredCosts(
            served=_served(engine, _side(engine, self._questions)),
            passes={name: curve for name, curve in found.curves.items() if name not in (STEP, SPOKEN)},
            step=found.curves[STEP],
            speech=found.curves[SPOKEN],
            prepare=(alone_s + relayed_s, per_s, per_picture),
            intake=found.intake,
            wake=found.wake,
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
) -> None:
    """Every other request is a question; the rest are random units, which no prompt cache knows."""
    left = load.num_requests

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            question = next(questions, None) if only_questions or left % 2 else None
            request = _units(asked.engine, rng) if question is None else question.request()
            units = rng.randint(MIN_UNITS, MAX_UNITS)
            params = SamplingParams(temperature=0.0, max_units=units, ignore_eos=True)
            async for _ in asked.stream(request, params):
                pass
            if load.pause_s:
                await asyncio.sleep(rng.uniform(0, load.pause_s))

    await asyncio.gather(*(client() for _ in range(load.number)))


def _units(engine: Engine, rng: random.Random) -> Request:
    vocab, count = engine.model_config.audio_vocab_size, rng.choice(PROMPT_UNITS)
    return Request(Units(rng.choices(range(vocab), k=count)), modalities=MODALITIES, system="")


def _relayed_s(watched: Watched) -> list[float]:
    """From when a request has been read until the engine's thread takes it, while that has nothing to do."""
    waits_s, read_s = list[float](), None
    for piece in sorted(watched.pieces, key=lambda piece: piece.begun_s):
        if piece.name == READ:
            read_s = piece.ended_s
        elif piece.name == INTAKE and read_s is not None:
            waits_s.append(max(0.0, piece.begun_s - read_s))
            read_s = None
    return waits_s


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
