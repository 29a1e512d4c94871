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

from antiphon import Engine
from antiphon.evaluation.cases import Case
from antiphon_tiny.evaluating import Media, per_cent, right_per_cent, run_task
from antiphon_tiny.omni.evaluation import PICTURE_SIZE, typed_cases
from antiphon_tiny.speech.shards import read_sets
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.samples import draw_sample, draw_samples

__all__ = [
    "RATE_HZ",
    "Replies",
    "Spoken",
    "SpokenQuestion",
    "evaluate_replies",
    "evaluate_spoken",
    "first_sound",
    "spoken_questions",
]

RATE_HZ = 16000
NUM_DRAWN = 20000
NUM_TIMED = 7


@dataclass(frozen=True)
class SpokenQuestion:
    sample: Sample
    """Of one turn"""
    sound: np.ndarray
    """float32 (n,) at 16 kHz"""

    @property
    def text(self) -> str:
        return self.sample.turns[0].question


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
    """Of the model's own speech; word errors in per cent, of what a listener hears against the reply's text,
    of speech made in chunks while its units came, and of the same units decoded at once."""

    num_spoken: int
    num_unfinished: int
    word_error_streamed: float
    word_error_whole: float
    dnsmos: float
    """nan where `speechmos` is not installed"""


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


def evaluate_spoken(engine: Engine, folder: Path, questions: Sequence[SpokenQuestion]) -> Spoken:
    """folder: of the run."""
    report = run_task(engine, folder, "spoken-qa", _cases(questions, folder), reply="text")
    about: dict[bool, list[str]] = {True: [], False: []}
    # A sound that is asked of several pictures counts once.
    first: dict[str, str] = {}
    for number, question in enumerate(questions):
        about[question.sample.scene is not None].append(str(number))
        first.setdefault(question.text, str(number))
    return Spoken(
        len(first),
        len(about[True]),
        per_cent(report, "heard_wer", set(first.values())),
        right_per_cent(report, about[True]),
        right_per_cent(report, about[False]),
    )


def evaluate_replies(engine: Engine, folder: Path, *, num: int, seed: int) -> Replies:
    """Replies to held-out typed questions, half of them about pictures. folder: of the runs. The listener is
    Whisper tiny.en where it is installed."""
    cases = typed_cases(draw_samples(num, "held_out", seed, pictures=0.5), Media(folder / "media"))
    streamed, whole = (
        run_task(engine, folder / name, "spoken-qa", cases, listener=None, in_chunks=in_chunks, ask="text")
        for name, in_chunks in (("replies", True), ("replies-whole", False))
    )
    cut = [each.counts.get("unfinished", (1.0, 1.0))[0] for each in streamed.scored]
    return Replies(
        num,
        round(sum(cut)),
        per_cent(streamed, "said_wer"),
        per_cent(whole, "said_wer"),
        per_cent(streamed, "dnsmos") / 100,
    )


def first_sound(engine: Engine, folder: Path, questions: Sequence[SpokenQuestion]) -> tuple[float, float]:
    """Seconds from a question of about two seconds to the reply's first sound, and seconds of computing for
    each second of it; medians. folder: of the run."""
    nearest = sorted(questions, key=lambda q: abs(len(q.sound) / RATE_HZ - 2))[:NUM_TIMED]
    report = run_task(engine, folder, "spoken-qa", _cases(nearest, folder), timed=NUM_TIMED)
    waited, rates = (
        [each.counts[key][0] for each in report.scored if key in each.counts]
        for key in ("first_sound_ms", "rtf")
    )
    return statistics.median(waited) / 1000, statistics.median(rates)


def _cases(questions: Sequence[SpokenQuestion], folder: Path) -> list[Case]:
    """folder: of their run, beside which their media are."""
    media, cases = Media(folder.parent / "media"), []
    for number, question in enumerate(questions):
        scene = question.sample.scene
        cases.append(
            Case(
                str(number),
                question.sample.topic,
                media.sound(question.sound, RATE_HZ),
                None if scene is None else media.picture(draw_picture(scene, PICTURE_SIZE)),
                question.text,
                (question.sample.answer,),
                rule="exact",
            )
        )
    return cases
