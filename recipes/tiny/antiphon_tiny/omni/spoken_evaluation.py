"""How the exported model does when it is spoken to, and how it speaks: sound in and out, by the runtime.

The questions are held out, by the test voices of the stage "speech-data", and so are the pictures.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from antiphon import Completion, Engine, Finished, Image, Message, Request, SamplingParams, Speech
from antiphon_tiny.omni.evaluation import PICTURE_SIZE, request_of
from antiphon_tiny.omni.hearing_training import word_errors
from antiphon_tiny.speech.judge import dnsmos, hear
from antiphon_tiny.speech.judge import word_errors as judged_errors
from antiphon_tiny.speech.shards import read_sets
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.samples import draw_sample, draw_samples
from antiphon_tiny.world.words import words_of

__all__ = [
    "Replies",
    "Spoken",
    "SpokenQuestion",
    "ask",
    "first_sound",
    "reply",
    "spoken_questions",
    "streamed",
]

PARAMS = SamplingParams(max_tokens=40, max_units=375)
RATE_HZ = 16000
NUM_DRAWN = 20000
AT_A_TIME = 16


@dataclass(frozen=True)
class SpokenQuestion:
    sample: Sample
    """Of one turn"""
    sound: np.ndarray
    """float32 (n,) at 16 kHz"""

    def request(self, modalities: tuple[str, ...] = ("text",)) -> Request:
        scene = self.sample.scene
        picture = [] if scene is None else [Image(draw_picture(scene, PICTURE_SIZE))]
        asked = Message("user", [*picture, Speech((self.sound, RATE_HZ))])
        return Request(messages=[asked], modalities=modalities)


@dataclass(frozen=True)
class Spoken:
    """Of one voice's questions; shares in per cent."""

    num_asked: int
    """Different questions."""
    num_about_pictures: int
    """Questions about pictures, each counted once for every picture that it was asked about."""
    transcript_word_error: float
    right_about_pictures: float
    right_otherwise: float


@dataclass(frozen=True)
class Replies:
    """Of the model's own speech; word errors in per cent, of what Whisper hears against the reply's text, of
    speech made in chunks while its units came, and of the same units decoded at once."""

    num_spoken: int
    num_unfinished: int
    word_error_streamed: float
    word_error_whole: float
    dnsmos: float
    units_per_word: float


def spoken_questions(
    work: Path, voice: str, *, limit: int, seed: int = 0, num_pictures: int = 1
) -> list[SpokenQuestion]:
    """Held-out questions in a test voice: each once or, if it is about a picture, with up to `num_pictures`
    pictures that training has not seen."""
    sounds = {u.info["text"]: u for u in read_sets(work / "speech", [voice])}
    rng = random.Random(f"{voice} {seed}")
    found: dict[str, dict[str | None, SpokenQuestion]] = defaultdict(dict)
    for _ in range(NUM_DRAWN):
        if sum(map(len, found.values())) == limit:
            break
        sample = draw_sample(rng, "held_out", max_turns=1)
        question, picture = sample.turns[0].question, sample.scene.key if sample.scene else None
        is_full = len(found[question]) >= (num_pictures if picture else 1)
        if question in sounds and picture not in found[question] and not is_full:
            found[question][picture] = SpokenQuestion(sample, sounds[question].samples())
    return [question for asked in found.values() for question in asked.values()]


def ask(engine: Engine, questions: Sequence[SpokenQuestion]) -> Spoken:
    done: list[Completion] = []
    for start in range(0, len(questions), AT_A_TIME):
        done += engine.generate([q.request() for q in questions[start : start + AT_A_TIME]], PARAMS)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for question, completion in zip(questions, done, strict=True):
        same = words_of(completion.text) == words_of(question.sample.answer)
        right[question.sample.scene is not None].append(same)
    # A sound that is asked of several pictures is transcribed once.
    heard = {q.sample.turns[0].question: c.transcript for q, c in zip(questions, done, strict=True)}
    return Spoken(
        len(heard),
        len(right[True]),
        word_errors(list(heard), list(heard.values())),
        *(100 * float(np.mean(right[about])) if right[about] else float("nan") for about in (True, False)),
    )


def streamed(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Completions, in the same order, whose speech was made in chunks while its units came, as listeners get
    it. `Engine.generate` would decode it whole."""
    ids = [engine.add_request(request, PARAMS, stream_audio=True) for request in requests]
    done: dict[str, Completion] = {}
    while len(done) < len(ids):
        for event in engine.step():
            if isinstance(event, Finished):
                done[event.request_id] = event.completion
    return [done[request_id] for request_id in ids]


def reply(engine: Engine, *, num: int, seed: int) -> Replies:
    """Replies to held-out typed questions, half of them about pictures."""
    samples = draw_samples(num, "held_out", seed, pictures=0.5)
    done: list[Completion] = []
    for start in range(0, num, AT_A_TIME):
        requests = [request_of(s, ("text", "audio")) for s in samples[start : start + AT_A_TIME]]
        done += streamed(engine, requests)
    in_chunks, whole, scores = [], [], []
    for completion in done:
        if completion.audio is None or engine.codec is None or not len(completion.audio):
            continue
        sound = _at_16_khz(completion.audio, completion.sample_rate_hz)
        in_chunks.append(judged_errors(completion.text, hear(sound)))
        scores.append(dnsmos(sound))
        [at_once] = engine.codec.decode([completion.units])
        whole.append(judged_errors(completion.text, hear(_at_16_khz(at_once, completion.sample_rate_hz))))
    return Replies(
        num,
        sum(completion.finish_reason != "stop" for completion in done),
        _per_cent(in_chunks),
        _per_cent(whole),
        float(np.mean(scores)),
        float(np.mean([len(c.units) / max(1, len(words_of(c.text))) for c in done])),
    )


def first_sound(
    engine: Engine, questions: Sequence[SpokenQuestion], *, repeats: int = 7
) -> tuple[float, float]:
    """Seconds from a question of about two seconds to the reply's first sound, and seconds of computing for
    each second of it; medians."""
    question = min(questions, key=lambda q: abs(len(q.sound) / RATE_HZ - 2))
    streamed(engine, [question.request(("text", "audio"))])
    waited, rates = [], []
    for _ in range(repeats):
        [done] = streamed(engine, [question.request(("text", "audio"))])
        assert done.metrics.ttfa_s is not None
        assert done.metrics.rtf is not None
        waited.append(done.metrics.ttfa_s)
        rates.append(done.metrics.rtf)
    return statistics.median(waited), statistics.median(rates)


def _at_16_khz(samples: np.ndarray, rate_hz: int | None) -> np.ndarray:
    assert rate_hz is not None
    out: np.ndarray = soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)
    return out


def _per_cent(counts: Sequence[tuple[int, int]]) -> float:
    return 100 * sum(wrong for wrong, _ in counts) / max(1, sum(said for _, said in counts))
