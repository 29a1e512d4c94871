"""Examines a model: what it hears, whether its answers are right, how it speaks, how soon.

Everything asked is held out. The spoken questions are those of the stage "speech-data".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

__all__ = ["NUM_SPOKEN", "Figure", "examine", "show"]

NUM_SPOKEN = 200
NUM_PICTURES = 4
"""The number of pictures that a spoken question is asked about."""


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    bar: float
    is_most: bool
    """Whether the bar is the most that is allowed, or the least."""
    unit: str

    @property
    def is_met(self) -> bool:
        return self.value <= self.bar if self.is_most else self.value >= self.bar


def examine(model: Path | None, codec: Path | None, work: Path, *, num: int = NUM_SPOKEN) -> list[Figure]:
    """num: the number of questions and of replies, of each kind. What was answered is left in `work/reports`,
    a folder with a page for each part."""
    from antiphon import Engine
    from antiphon_tiny.omni.evaluation import evaluate_typed
    from antiphon_tiny.omni.spoken_evaluation import (
        evaluate_replies,
        evaluate_spoken,
        first_sound,
        spoken_questions,
    )

    reports = work / "reports"
    begun = time.perf_counter()
    engine = Engine(model, codec=codec)
    load_s = time.perf_counter() - begun
    with engine:
        with _told("typed questions"):
            typed = evaluate_typed(engine, reports, num_samples=num)
        with _told("spoken questions, the speaking voice"):
            asked = {"limit": 2 * num, "num_pictures": NUM_PICTURES}
            questions = spoken_questions(work, "test_heart", **asked)
            own = evaluate_spoken(engine, reports / "spoken", questions)
        with _told("spoken questions, a natural voice that training has not heard"):
            unknown = spoken_questions(work, "test_joe", **asked)
            joe = evaluate_spoken(engine, reports / "spoken-joe", unknown)
        with _told("replies, as heard by others"):
            said = evaluate_replies(engine, reports, num=num, seed=200)
        with _told("a question of two seconds"):
            first_s, rate = first_sound(engine, reports / "first-sound", questions)
    return [
        Figure("transcript, speaking voice: word error", own.transcript_word_error, 5, True, "%"),
        Figure("transcript, unknown natural voice: word error", joe.transcript_word_error, 15, True, "%"),
        Figure("right answers about pictures, typed", typed["pictures"], 90, False, "%"),
        Figure("right answers otherwise, typed", typed["talk"], 90, False, "%"),
        Figure("right answers about pictures, spoken", own.right_about_pictures, 90, False, "%"),
        Figure("right answers otherwise, spoken", own.right_otherwise, 90, False, "%"),
        Figure("reply as Whisper hears it, streamed: word error", said.word_error_streamed, 15, True, "%"),
        Figure("reply as Whisper hears it, whole: word error", said.word_error_whole, 15, True, "%"),
        Figure("DNSMOS, overall", said.dnsmos, 2.5, False, ""),
        Figure(f"unfinished replies of {said.num_spoken}", said.num_unfinished, 0, True, ""),
        Figure("first sound after a question of two seconds", first_s, 1, True, "s"),
        Figure("computing for each second of speech", rate, 1, True, "s"),
        Figure("loading", load_s, 2, True, "s"),
    ]  # fmt: skip


@contextmanager
def _told(what: str) -> Iterator[None]:
    begun = time.perf_counter()
    print(f"{what} ...", flush=True)
    yield
    print(f"{what}: {time.perf_counter() - begun:.0f} s", flush=True)


def show(figures: list[Figure]) -> Table:
    table = Table("figure", "measured", "bar", "")
    for figure in figures:
        digits = 0 if figure.name.startswith("unfinished") else 2 if figure.unit in ("s", "") else 1
        table.add_row(
            figure.name,
            f"{figure.value:.{digits}f} {figure.unit}".strip(),
            f"{'at most' if figure.is_most else 'at least'} {figure.bar:g} {figure.unit}".strip(),
            "met" if figure.is_met else "missed",
        )
    return table
