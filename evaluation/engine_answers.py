"""The model in this process: as many requests at a time as the engine takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError, EngineDead
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case
from antiphon.evaluation.options import Options
from antiphon.prompt import Prompt
from antiphon.sound.arrays import AudioArray
from antiphon.text.sentences import SENTENCE_PAUSE_S, spoken_pieces
from antiphon.types import Completion, Finished, Image, Part, Request, SamplingParams, Speech

__all__ = ["EngineAnswers", "seed_of"]

AHEAD = 16
"""Cases that are read, or wait, beside those that are computed: while some begin and end, the engine has
others. Pictures take some 20 MB each meanwhile."""
NUM_READERS = 2
"""Threads that read and cut recordings"""


def seed_of(case: Case) -> int:
    """Of its vocoder's noise: the same in every run, whatever else is asked."""
    return int.from_bytes(hashlib.sha256(case.case_id.encode()).digest()[:4], "big")


@dataclass
class _Asked:
    """The requests of a case, and what makes an answer of their completions."""

    case: Case
    requests: list[Request]
    prompts: list[Prompt]
    params: list[SamplingParams]
    combine: Callable[[list[Completion]], Answer]
    done: dict[int, Completion] = field(default_factory=dict)

    def answer(self) -> Answer:
        completions = [self.done[number] for number in range(len(self.requests))]
        failed = [done.error or done.finish_reason for done in completions if done.finish_reason == "error"]
        if failed:
            return Answer(error=str(failed[0]))
        try:
            return self.combine(completions)
        except AntiphonError as error:
            return Answer(error=str(error))


class EngineAnswers:
    """Greedy answers, which depend neither on their order nor on what is asked beside them. Speech is made
    in chunks, as a server makes it."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._options = options

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        engine, waiting = self._engine, iter(cases)
        running: dict[str, tuple[_Asked, int]] = {}
        most = AHEAD + engine.config.max_num_seqs
        reading: list[tuple[Case, Future[_Asked]]] = []
        with ThreadPoolExecutor(NUM_READERS, "evaluation") as readers:
            try:
                while True:
                    while len(reading) + len(running) < most and (case := next(waiting, None)) is not None:
                        reading.append((case, readers.submit(self._asked, case)))
                    while reading and (reading[0][1].done() or not running):
                        case, future = reading.pop(0)
                        try:
                            asked = future.result()
                            if not asked.requests:
                                yield case, asked.answer()
                            for number, request in enumerate(asked.requests):
                                request_id = engine.add_prepared(
                                    request, asked.prompts[number], asked.params[number]
                                )
                                running[request_id] = (asked, number)
                        except EngineDead:
                            raise
                        except (AntiphonError, OSError) as error:
                            yield case, Answer(error=str(error))
                    if not running and not reading:
                        return
                    for event in engine.step() if running else ():
                        if isinstance(event, Finished) and event.request_id in running:
                            asked, number = running.pop(event.request_id)
                            asked.done[number] = event.completion
                            if len(asked.done) == len(asked.requests):
                                yield asked.case, asked.answer()
            finally:
                for _, future in reading:
                    future.cancel()
                for request_id in running:
                    engine.abort(request_id)

    def _asked(self, case: Case) -> _Asked:
        requests, params, combine = self._requests(case)
        return _Asked(case, requests, [self._engine.prepare(each) for each in requests], params, combine)

    def _requests(
        self, case: Case
    ) -> tuple[list[Request], list[SamplingParams], Callable[[list[Completion]], Answer]]:
        match self._options.task:
            case "asr":
                assert case.audio is not None
                recording = self._engine.prepare_transcript(Speech(case.audio))
                requests = recording.requests

                def heard(done: list[Completion]) -> Answer:
                    return Answer(transcript=recording.transcription(done).text)

                return requests, [SamplingParams()] * len(requests), heard
            case "tts":
                pieces = spoken_pieces(case.text)
                requests = [
                    Request(say=piece, modalities=("text", "audio"), voice=self._options.voice)
                    for piece in pieces
                ]
                seeds = range(len(pieces))  # as a server has them
                said = partial(_said, case.text)
                return requests, [SamplingParams(seed=seed) for seed in seeds], said
        options = self._options
        parts: list[Part] = []
        if case.image is not None:
            parts.append(Image(case.image))
        if case.audio is not None and options.ask == "speech":
            parts.append(Speech(case.audio))
        else:
            parts.append(case.text)
        modalities = ("text", "audio") if options.speaks else ("text",)
        request = Request(parts, modalities, voice=options.voice if options.speaks else None)
        params = SamplingParams(
            max_tokens=options.max_tokens, max_units=options.max_units, seed=seed_of(case)
        )
        return [request], [params], _replied


def _replied(done: list[Completion]) -> Answer:
    [reply] = done
    return Answer(reply.text, reply.transcript, reply.audio, reply.sample_rate_hz or 0, times=_times(reply))


def _said(text: str, done: list[Completion]) -> Answer:
    """Sentences one after the other, with a pause between them."""
    rate_hz = done[0].sample_rate_hz or 0
    pause = np.zeros(int(SENTENCE_PAUSE_S * rate_hz), np.float32)
    pieces: list[AudioArray] = []
    for each in done:
        if each.audio is not None:
            pieces += [*([pause] if pieces else []), each.audio]
    samples = np.concatenate(pieces) if pieces else None
    return Answer(text, samples=samples, rate_hz=rate_hz, times=_times(done[0]) if len(done) == 1 else {})


def _times(done: Completion) -> dict[str, float]:
    """In the units of their metrics, by whose keys they go"""
    metrics = done.metrics
    told = {"first_sound_ms": metrics.ttfa_s, "reply_ms": metrics.e2e_s}
    times = {name: 1000 * value for name, value in told.items() if value is not None}
    return times if metrics.rtf is None else times | {"rtf": metrics.rtf}
