"""What an engine does while it serves, piece by piece: when each began and ended, and how much it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from antiphon.aio.subscribers import Subscribers
from antiphon.bench.simulate.costs import MODEL, PREPARE, SPEECH, Work
from antiphon.bench.simulate.measured import kind_of
from antiphon.bench.spans import replaced
from antiphon.engine.engine import Engine
from antiphon.outputs.speech_job import Job
from antiphon.outputs.speech_maker import Lane
from antiphon.prompt import Prompt
from antiphon.sched.plan import StackPlan
from antiphon.types import Request, Units

__all__ = ["INTAKE", "READ", "SPOKEN", "STEP", "Piece", "Watched", "watching"]

STEP, INTAKE, SPOKEN, READ = "step", "intake", "speech", "read"
"""Pieces beside the passes: a step without them, taking a request in, making speech, reading a request."""


@dataclass(frozen=True)
class Piece:
    """Some work, and when it was done."""

    kind: str
    """MODEL, SPEECH or PREPARE: who was busy with it"""
    name: str
    """What it was: `kind_of` a pass, or one of the other pieces"""
    size: float
    """Positions of a pass, requests of a step, mel frames of speech, seconds of a recording"""
    context: float
    """Positions that a pass attends to"""
    begun_s: float
    ended_s: float
    inside_s: float = 0.0
    """What other pieces inside it took"""
    pictures: int = 0
    """Of a pass, tiles that are seen for the first time; of a request that is read, its pictures"""

    @property
    def own_s(self) -> float:
        return self.ended_s - self.begun_s - self.inside_s


@dataclass
class Watched:
    """In order of their ends; passes come before the step that they are in."""

    pieces: list[Piece] = field(default_factory=list)
    _passes_s: float = 0.0
    """Of the step that is under way"""
    _rows: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def pass_(self, plan: StackPlan, begun_s: float) -> None:
        ended_s = time.perf_counter()
        work = self._work(plan)
        self._passes_s += ended_s - begun_s
        self._rows = max(self._rows, work.rows)
        self.pieces.append(
            Piece(
                MODEL,
                kind_of(work),
                work.tokens,
                work.context,
                begun_s,
                ended_s,
                pictures=work.picture_tiles,
            )
        )

    def begin_step(self) -> None:
        self._passes_s, self._rows = 0.0, 0

    def end_step(self, begun_s: float) -> None:
        """One without passes has waited for something."""
        if self._rows:
            ended_s = time.perf_counter()
            self.pieces.append(Piece(MODEL, STEP, self._rows, 0.0, begun_s, ended_s, self._passes_s))

    def take(self, kind: str, name: str, size: float, begun_s: float, pictures: int = 0) -> None:
        self.pieces.append(Piece(kind, name, size, 0.0, begun_s, time.perf_counter(), pictures=pictures))

    def _work(self, plan: StackPlan) -> Work:
        picks = sum(chunk.samples for chunk in plan.chunks)
        is_decode = all(len(chunk) == 1 for chunk in plan.chunks)
        if plan.stack != "bottom":
            is_decode = is_decode and picks == len(plan.chunks)
        if plan.stack == "top":
            is_decode = is_decode and all(c.end > c.request.num_speech_prompt for c in plan.chunks)
        context = sum(chunk.end for chunk in plan.chunks)
        tiles = self._new_tiles(plan) if plan.stack == "text" else 0
        return Work(plan.stack, len(plan.chunks), plan.num_tokens, context, picks, is_decode, tiles)

    def _new_tiles(self, plan: StackPlan) -> int:
        tiles = 0
        for chunk in plan.chunks:
            for span, image in zip(chunk.request.image_spans, chunk.request.prompt.images, strict=True):
                if chunk.start <= span.start < chunk.end and image.digest not in self._seen:
                    self._seen.add(image.digest)
                    tiles += image.plan.num_tiles
        return tiles


@contextmanager
def watching(engine: Engine) -> Iterator[Watched]:
    """For the length of the context, what this process's engine does is taken note of."""
    found, runner, worker = Watched(), engine.runner, engine.speech_worker
    assert worker is not None, "speech is watched, too"

    def passes(run: Callable[[StackPlan], Any]) -> Callable[[StackPlan], Any]:
        def timed(plan: StackPlan) -> Any:
            begun_s = time.perf_counter()
            results = run(plan)
            found.pass_(plan, begun_s)
            return results

        return timed

    step, add = Subscribers.step, Subscribers.add
    prepare, make = engine.prepare, worker.make

    def timed_step(self: Subscribers) -> None:
        found.begin_step()
        begun_s = time.perf_counter()
        step(self)
        found.end_step(begun_s)

    def timed_add(self: Subscribers, command: Any) -> None:
        begun_s = time.perf_counter()
        add(self, command)
        found.take(MODEL, INTAKE, 1.0, begun_s)

    def timed_prepare(request: Request, **options: Any) -> Prompt:
        begun_s = time.perf_counter()
        prompt = prepare(request, **options)
        if not _has_units(request):  # there would be nothing to hear
            found.take(PREPARE, READ, prompt.num_last_units / 25, begun_s, len(prompt.images))
        return prompt

    def timed_make(jobs: list[Job], lane: Lane) -> Any:
        frames = sum(job.stream.ready_frames for job in jobs if job.stream is not None)
        begun_s = time.perf_counter()
        made = make(jobs, lane)
        found.take(SPEECH, SPOKEN, frames, begun_s)
        return made

    with ExitStack() as stack:
        for run in (runner.run_bottom, runner.run_text, runner.run_top):
            stack.enter_context(replaced(run, passes(run)))
        stack.enter_context(replaced(step, timed_step, owner=Subscribers))
        stack.enter_context(replaced(add, timed_add, owner=Subscribers))
        stack.enter_context(replaced(prepare, timed_prepare))
        stack.enter_context(replaced(make, timed_make))
        yield found


def _has_units(request: Request) -> bool:
    parts = request.content if isinstance(request.content, (list, tuple)) else [request.content]
    return any(isinstance(part, Units) for part in parts)
