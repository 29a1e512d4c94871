"""What an engine's parts take on this machine, alone and beside each other."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from antiphon.bench.engine import add_paced_request
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.bench.simulate.costs import MODEL, PREPARE, SPEECH, Served, Work
from antiphon.bench.simulate.measured import Curve, MeasuredCosts, kind_of
from antiphon.bench.spans import replaced
from antiphon.codec.stream import SpeechStream, advance
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.sched.plan import StackPlan
from antiphon.types import Request, SamplingParams, Units

__all__ = ["calibrate"]

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
PROMPT_UNITS = (10, 40, 100)
PACE = 0.15
"""Text tokens that a unit asks for: what trained models say in a second of speech is of this order."""
UNITS = 40
IN_UNITS = ("text", "units")
"""Spoken replies without their sound: the speech worker has nothing to do."""
SIDE_S = 1.0
"""How long two kinds of work run side by side."""
TURNS = 2


@dataclass
class _Passes:
    """Timed passes of an engine, and what its steps take beside them."""

    taken: list[tuple[Work, float]] = field(default_factory=list)
    pass_s: float = 0.0
    """Of the step that is under way"""
    rows: int = 0

    def timed(self, run: Callable[[StackPlan], Any]) -> Callable[[StackPlan], Any]:
        def timed(plan: StackPlan) -> Any:
            work = _work(plan)
            begun_s = time.perf_counter()
            found = run(plan)
            taken_s = time.perf_counter() - begun_s
            self.pass_s += taken_s
            self.rows = max(self.rows, work.rows)
            self.taken.append((work, taken_s))
            return found

        return timed


def calibrate(engine: Engine, questions: Sequence[Question] | None = None) -> MeasuredCosts:
    """Takes a minute or two. The engine has a codec, serves nobody else, and is as it was afterwards."""
    assert engine.codec is not None, "speech is measured, too"
    questions = read_workload() if questions is None else questions
    with_pictures = _measure_pictures(engine, questions)
    passes, beside = _measure_steps(engine)
    prepare, side = _measure_reading(engine, questions)
    found = MeasuredCosts(
        served=_served(engine, side),
        passes=passes,
        step=beside,
        speech=_measure_speech(engine),
        prepare=prepare,
        intake=_measure_intake(engine),
        tile=_tile_s(with_pictures, passes["text prompts"]),
        machine=cpu_name(),
    )
    return MeasuredCosts(**{**vars(found), "slowed": _measure_beside(engine, questions)})


def _served(engine: Engine, side: int) -> Served:
    codec = engine.codec
    assert codec is not None
    prompt = engine.prepare(Request(Units([0]), modalities=("text", "audio")))
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


# --- steps --------------------------------------------------------------------------------------


@contextmanager
def _timing(engine: Engine) -> Iterator[_Passes]:
    passes, runner = _Passes(), engine.runner
    with ExitStack() as stack:
        for run in (runner.run_bottom, runner.run_text, runner.run_top):
            stack.enter_context(replaced(run, passes.timed(run)))
        yield passes


def _work(plan: StackPlan) -> Work:
    picks = sum(chunk.samples for chunk in plan.chunks)
    is_decode = all(len(chunk) == 1 for chunk in plan.chunks)
    if plan.stack != "bottom":
        is_decode = is_decode and picks == len(plan.chunks)
    if plan.stack == "top":
        is_decode = is_decode and all(c.end > c.request.num_speech_prompt for c in plan.chunks)
    context = sum(chunk.end for chunk in plan.chunks)
    return Work(plan.stack, len(plan.chunks), plan.num_tokens, context, picks, is_decode)


def _measure_steps(engine: Engine) -> tuple[dict[str, Curve], Curve]:
    rng = random.Random(0)
    taken: list[tuple[Work, float]] = []
    beside: list[tuple[int, float]] = []
    most = min(ROWS[-1], engine.config.max_num_seqs)
    for is_warm in (False, True):
        for prompt_units in PROMPT_UNITS:
            for rows in ROWS if is_warm else (1, most):
                if rows <= most:
                    found = _steps(engine, rows, prompt_units, rng)
                    if is_warm:
                        taken += found[0]
                        beside += found[1]
    kinds = {kind_of(work) for work, _ in taken}
    passes = {
        kind: fit_curve([(w.tokens, w.context, s) for w, s in taken if kind_of(w) == kind])
        for kind in sorted(kinds)
    }
    return passes, fit_curve([(rows, 0, seconds) for rows, seconds in beside])


def _steps(
    engine: Engine, rows: int, prompt_units: int, rng: random.Random
) -> tuple[list[tuple[Work, float]], list[tuple[int, float]]]:
    """Half of the requests come when the others speak already, as they do in service."""
    beside, late = [], rows // 2

    def add() -> None:
        add_paced_request(engine, prompt_units, UNITS, PACE, rng, IN_UNITS)

    with _timing(engine) as passes:
        for _ in range(rows - late):
            add()
        number = 0
        while engine.has_unfinished():
            number += 1
            if late and number % 4 == 0:
                late -= 1
                add()
            passes.pass_s, passes.rows = 0.0, 0
            begun_s = time.perf_counter()
            engine.step()
            beside.append((passes.rows, time.perf_counter() - begun_s - passes.pass_s))
    return passes.taken, [(count, seconds) for count, seconds in beside if count]


def fit_curve(points: Sequence[tuple[float, float, float]]) -> Curve:
    """A curve through (size, context, seconds): medians of like points, then least squares. Where more
    context or a larger size seems to take less, that is taken for noise."""
    groups: dict[tuple[float, int], list[tuple[float, float, float]]] = {}
    for point in points:
        groups.setdefault((point[0], int(np.log2(max(point[1], 1)) * 2)), []).append(point)
    medians = np.array([np.median(group, axis=0) for group in groups.values()])
    weights = np.sqrt([len(group) for group in groups.values()])
    size, context, seconds = medians.T
    knots = _knots(np.unique(size))
    hats = np.stack([np.interp(size, knots, row) for row in np.eye(len(knots))], axis=1)
    for columns in (np.column_stack([hats, context]), hats):
        found, *_ = np.linalg.lstsq(columns * weights[:, None], seconds * weights, rcond=None)
        slope = float(found[-1]) if columns.shape[1] > len(knots) else 0.0
        if slope >= 0:
            break
    rising = np.maximum.accumulate(np.maximum(found[: len(knots)], 0.0))
    return Curve(tuple(map(float, knots)), tuple(map(float, rising)), slope)


def _knots(sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of all sizes, those that are apart by a quarter or more."""
    kept = [sizes[0]]
    for size in sizes[1:]:
        if size >= 1.25 * kept[-1]:
            kept.append(size)
    if kept[-1] < sizes[-1] and len(kept) > 1:
        kept[-1] = sizes[-1]
    return np.array(kept)


# --- the rest -----------------------------------------------------------------------------------


def _streams(engine: Engine, count: int, units: int) -> list[SpeechStream]:
    codec = engine.codec
    assert codec is not None
    rng = random.Random(1)
    streams = [codec.stream(codec.voice(None), seed, engine.config.stream_schedule) for seed in range(count)]
    for stream in streams:
        stream.add([rng.randrange(codec.num_units_vocab) for _ in range(units)], final=True)
    return streams


def _measure_speech(engine: Engine) -> Curve:
    codec = engine.codec
    assert codec is not None
    points: list[tuple[float, float, float]] = []
    for is_warm in (False, True, True):
        for count in (1,) if not codec.max_batch_frames else (1, 2, 4, 8):
            for units in (14, 25, 60, 110):
                streams = _streams(engine, count, units)
                while any(stream.ready for stream in streams):
                    batch = [stream for stream in streams if stream.ready]
                    frames = sum(stream.ready_frames for stream in batch)
                    begun_s = time.perf_counter()
                    advance(batch)
                    if is_warm:
                        points.append((frames, 0.0, time.perf_counter() - begun_s))
    return fit_curve(points)


def _measure_reading(engine: Engine, questions: Sequence[Question]) -> tuple[tuple[float, float, float], int]:
    """Seconds of reading; and the side of a square of as many positions as a picture takes."""
    rows, seconds, positions = [], [], []
    for is_warm in (False, True, True):
        for question in questions:
            begun_s = time.perf_counter()
            prompt = engine.prepare(question.request())
            if is_warm:
                seconds.append(time.perf_counter() - begun_s)
                rows.append([1.0, prompt.num_last_units / 25, len(prompt.images)])
                positions += [image.num_positions for image in prompt.images]
    found, *_ = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)
    alone, per_s, per_picture = (max(0.0, float(value)) for value in found)
    side = max(1, round(statistics.mean(positions) ** 0.5)) if positions else 1
    return (alone, per_s, per_picture), side


def _measure_intake(engine: Engine) -> float:
    """Adding a request, and its end."""
    taken = []
    for number in range(20):
        request = Request(Units([number + 1]), modalities=("text", "audio"))
        prompt = engine.prepare(request)
        begun_s = time.perf_counter()
        name = engine.add_prepared(request, prompt, SamplingParams(max_units=4))
        engine.abort(name)
        taken.append(time.perf_counter() - begun_s)
        while engine.has_unfinished():
            engine.step()
    return statistics.median(taken)


def _measure_pictures(engine: Engine, questions: Sequence[Question]) -> list[tuple[Work, float]]:
    """Text passes that read a picture for the first time."""
    pictures = {question.picture: question for question in questions if question.picture is not None}
    _steps(engine, 2, PROMPT_UNITS[0], random.Random(3))  # warms up
    found = []
    for question in pictures.values():
        with _timing(engine) as timed:
            engine.add_request(question.request(), SamplingParams(max_units=2), stream_audio=False)
            while engine.has_unfinished():
                engine.step()
        found.append(next((work, seconds) for work, seconds in timed.taken if work.stack == "text"))
    return found


def _tile_s(with_pictures: Sequence[tuple[Work, float]], prompts: Curve) -> float:
    """What such a pass takes longer than its positions do."""
    beyond = [seconds - prompts.at(work.tokens, work.context) for work, seconds in with_pictures]
    return max(0.0, statistics.median(beyond)) if beyond else 0.0


def _measure_beside(engine: Engine, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """By how much each kind of work slows each other down, alone and together in turns."""
    asked = cycle(questions)
    work: dict[str, Callable[[], object]] = {
        MODEL: partial(_one_step, engine, random.Random(2)),
        SPEECH: partial(_one_chunk, engine),
        PREPARE: lambda: engine.prepare(next(asked).request()),
    }
    alone: dict[str, list[float]] = {kind: [] for kind in work}
    together: dict[tuple[str, str], list[float]] = {}
    for _ in range(TURNS):
        for kind, call in work.items():
            alone[kind] += [statistics.mean(found) for found in _side_by_side([call])]
        for first, second in (
            (MODEL, SPEECH),
            (MODEL, PREPARE),
            (SPEECH, SPEECH),
            (SPEECH, PREPARE),
            (PREPARE, PREPARE),
        ):
            calls = [work[first], work[second] if first != second else _again(engine, first, questions)]
            one, other = _side_by_side(calls)
            together.setdefault((first, second), []).append(statistics.mean(one))
            if first != second:
                together.setdefault((second, first), []).append(statistics.mean(other))
    while engine.has_unfinished():
        engine.step()
    slowed: dict[str, dict[str, float]] = {kind: {} for kind in work}
    for (slow, beside), taken in together.items():
        slowed[slow][beside] = max(0.0, statistics.mean(taken) / statistics.mean(alone[slow]) - 1)
    return slowed


def _again(engine: Engine, kind: str, questions: Sequence[Question]) -> Callable[[], object]:
    """The same kind of work, with a state of its own."""
    if kind == SPEECH:
        return partial(_one_chunk, engine)
    asked = cycle(questions)
    return lambda: engine.prepare(next(asked).request())


def _side_by_side(calls: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Each call over and over, in a thread of its own but the first, for `SIDE_S`; the seconds of each."""
    until_s = time.perf_counter() + SIDE_S
    taken: list[list[float]] = [[] for _ in calls]

    def loop(number: int) -> None:
        begun_s = time.perf_counter()
        while begun_s < until_s or not taken[number]:
            calls[number]()
            ended_s = time.perf_counter()
            taken[number].append(ended_s - begun_s)
            begun_s = ended_s

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(1, len(calls))]
    for thread in threads:
        thread.start()
    loop(0)
    for thread in threads:
        thread.join()
    return taken


def _one_step(engine: Engine, rng: random.Random) -> None:
    """A step of a few requests that speak."""
    while len(engine.request_ids) < 4:
        add_paced_request(engine, 20, 200, PACE, rng, IN_UNITS)
    engine.step()


def _one_chunk(engine: Engine) -> None:
    advance(_streams(engine, 1, 40))
