"""The model in this process: as many requests at a time as the engine takes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError, EngineDead
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case, Turn
from antiphon.evaluation.options import Options
from antiphon.prompt import Prompt
from antiphon.sound.arrays import AudioArray
from antiphon.text.sentences import SENTENCE_PAUSE_S, spoken_pieces
from antiphon.types import Completion, Finished, Image, Message, Part, Request, SamplingParams, Speech

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
    history: list[Message]
    """Of a dialogue, the messages of this request"""
    arrived_s: float
    """When its recordings were begun to be read"""
    done: dict[int, Completion] = field(default_factory=dict)

    @property
    def next_history(self) -> list[Message] | None:
        """With the reply to a turn that is not the last; None: the answer is whole, or has failed."""
        num_asked = sum(message.role == "user" for message in self.history)
        is_last = num_asked == 0 or num_asked > len(self.case.turns)
        if is_last or self.done[0].finish_reason == "error":
            return None
        return [*self.history, Message("assistant", self.done[0].text)]

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
    """Greedy answers, which depend neither on their order nor on what is asked beside them."""

    def __init__(self, engine: Engine, options: Options, *, in_chunks: bool = True) -> None:
        """in_chunks: speech is made while its units come, as a server makes it, else at once."""
        self._engine = engine
        self._options = options
        self._in_chunks = in_chunks

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        engine, waiting = self._engine, iter(cases)
        running: dict[str, tuple[_Asked, int]] = {}
        most = AHEAD + engine.config.max_num_seqs
        reading: list[tuple[Case, Future[_Asked]]] = []
        with ThreadPoolExecutor(NUM_READERS, "evaluation") as readers:
            try:
                while True:
                    while len(reading) + len(running) < most and (case := next(waiting, None)) is not None:
                        reading.append((case, readers.submit(self._asked, case, [])))
                    while reading and (reading[0][1].done() or not running):
                        case, future = reading.pop(0)
                        try:
                            asked = future.result()
                            if not asked.requests:
                                yield case, asked.answer()
                            for number, request in enumerate(asked.requests):
                                request_id = engine.add_prepared(
                                    request,
                                    asked.prompts[number],
                                    asked.params[number],
                                    arrived_s=asked.arrived_s,
                                    stream_audio=self._in_chunks,
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
                            if len(asked.done) < len(asked.requests):
                                continue
                            if (history := asked.next_history) is None:
                                yield asked.case, asked.answer()
                            else:
                                future = readers.submit(self._asked, asked.case, history)
                                reading.append((asked.case, future))
            finally:
                for _, future in reading:
                    future.cancel()
                for request_id in running:
                    engine.abort(request_id)

    def _asked(self, case: Case, history: list[Message]) -> _Asked:
        """history: of a dialogue that has begun."""
        arrived_s = time.perf_counter()
        history = self._with_next(case, history)
        requests, params, combine = self._requests(case, history)
        prompts = [self._engine.prepare(each) for each in requests]
        return _Asked(case, requests, prompts, params, combine, history, arrived_s)

    def _with_next(self, case: Case, history: list[Message]) -> list[Message]:
        """Up to the next question that the model is asked."""
        if self._options.task in ("asr", "tts"):
            return []
        history = list(history)
        for turn in case.turns[len(history) // 2 :]:
            history.append(Message("user", self._parts(turn)))
            if turn.reply is None:
                return history
            history.append(Message("assistant", turn.reply))
        return [*history, Message("user", self._parts(case))]

    def _parts(self, asked: Case | Turn) -> list[Part]:
        parts: list[Part] = []
        if asked.image is not None:
            parts.append(Image(asked.image))
        if asked.audio is not None and self._options.ask == "speech":
            parts.append(Speech(asked.audio))
        else:
            parts.append(asked.text)
        return parts

    def _requests(
        self, case: Case, history: list[Message]
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
        # Of a dialogue, the last reply alone is heard.
        speaks = options.speaks and sum(each.role == "user" for each in history) > len(case.turns)
        modalities = ("text", "audio") if speaks else ("text",)
        request = Request(messages=history, modalities=modalities, voice=options.voice if speaks else None)
        params = SamplingParams(
            max_tokens=options.max_tokens, max_units=options.max_units, seed=seed_of(case)
        )
        return [request], [params], _replied


def _replied(done: list[Completion]) -> Answer:
    [reply] = done
    return Answer(
        reply.text,
        reply.transcript,
        reply.audio,
        reply.sample_rate_hz or 0,
        reply.finish_reason,
        times=_times(reply),
    )


def _said(text: str, done: list[Completion]) -> Answer:
    """Sentences one after the other, with a pause between them."""
    rate_hz = done[0].sample_rate_hz or 0
    pause = np.zeros(int(SENTENCE_PAUSE_S * rate_hz), np.float32)
    pieces: list[AudioArray] = []
    for each in done:
        if each.audio is not None:
            pieces += [*([pause] if pieces else []), each.audio]
    samples = np.concatenate(pieces) if pieces else None
    finish = next((each.finish_reason for each in done if each.finish_reason != "stop"), "stop")
    times = _times(done[0]) if len(done) == 1 else {}
    return Answer(text, "", samples, rate_hz, finish, times=times)


def _times(done: Completion) -> dict[str, float]:
    """In the units of their metrics, by whose keys they go"""
    metrics = done.metrics
    told = {
        "first_sound_ms": metrics.ttfa_s,
        "gap_ms": metrics.underrun_s,
        "reply_ms": metrics.e2e_s,
    }
    times = {name: 1000 * value for name, value in told.items() if value is not None}
    return times if metrics.rtf is None else times | {"rtf": metrics.rtf}
