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
from itertools import cycle

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.engine import paced_speaking
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.bench.simulate.costs import Served
from antiphon.bench.simulate.fitting import fit
from antiphon.bench.simulate.measured import MeasuredCosts
from antiphon.bench.simulate.watching import INTAKE, READ, SPOKEN, STEP, Watched, watching
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.types import Request, SamplingParams, Units

__all__ = ["Clients", "calibrate"]


@dataclass(frozen=True)
class Clients:
    """A load: each client asks again after a pause."""

    number: int
    num_requests: int
    pause_s: float = 0.0
    """At most"""


LOADS = (Clients(1, 20, 0.5), Clients(2, 16, 0.3), Clients(4, 24), Clients(8, 32), Clients(24, 48))
PROMPT_UNITS = (10, 40, 100)
MIN_UNITS, MAX_UNITS = 15, 60
"""Of a reply"""
PACE = 0.15
"""Text tokens that a unit asks for: what trained models say in a second of speech is of this order."""
MODALITIES = ("text", "audio")


async def calibrate(asked: AsyncEngine, questions: Sequence[Question] | None = None) -> MeasuredCosts:
    """Takes a minute or two. The engine has a codec, serves nobody else, and is as it was afterwards."""
    engine = asked.engine
    assert engine.codec is not None, "speech is measured, too"
    questions = read_workload() if questions is None else questions
    rng = random.Random(0)
    with _paced(engine):
        await _serve(asked, LOADS[-1], iter(()), rng)  # warms up
        with watching(engine) as first:
            await _serve(asked, Clients(1, len(questions)), iter(questions), rng, only_questions=True)
        with watching(engine) as watched:
            for load in LOADS:
                await _serve(asked, load, cycle(questions), rng)
                if load is LOADS[0]:
                    relayed_s = _relayed_s(watched)
    found = fit(watched.pieces, [piece for piece in first.pieces if piece.pictures and piece.name != READ])
    alone_s, per_s, per_picture = found.read
    return MeasuredCosts(
        served=_served(engine, _side(engine, questions)),
        passes={name: curve for name, curve in found.curves.items() if name not in (STEP, SPOKEN)},
        step=found.curves[STEP],
        speech=found.curves[SPOKEN],
        prepare=(alone_s + relayed_s, per_s, per_picture),
        intake=found.intake,
        wake=found.wake,
        tile=found.tile,
        slowed=found.slowed,
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


def _relayed_s(watched: Watched) -> float:
    """From when a request has been read until the engine's thread takes it, while that has nothing to do."""
    pieces = sorted(watched.pieces, key=lambda piece: piece.begun_s)
    waits_s, read_s = [], None
    for piece in pieces:
        if piece.name == READ:
            read_s = piece.ended_s
        elif piece.name == INTAKE and read_s is not None:
            waits_s.append(piece.begun_s - read_s)
            read_s = None
    return max(0.0, statistics.median(waits_s)) if waits_s else 0.0


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
