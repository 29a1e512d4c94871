"""Asks a model from outside, typed and by voice, and compares what it hears and answers with the bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from antiphon import Engine
from antiphon.evaluation.cases import Case, Turn
from antiphon.evaluation.report import Report as Answers
from antiphon_tiny.evaluating import Media, is_right, per_cent, right_per_cent, run_task
from antiphon_tiny.examination import Figure
from antiphon_tiny.outside.drawings import STYLES, draw
from antiphon_tiny.outside.questions import Question, dialogues, questions, said
from antiphon_tiny.outside.rooms import RATE_HZ, Room, joined
from antiphon_tiny.outside.voices import OWN, Voices
from antiphon_tiny.world.words import NAMES

__all__ = ["Report", "examine_outside"]

ROOM = Room(1.0, 1.0, snr_db=30.0)
"""In which the bars are to be met."""
SILENCES = (Room(), Room(0.5, 0.0), Room(2.0, 0.0), Room(0.0, 2.0), Room(3.0, 3.0), Room(1.0, 1.0, 1.0))
SNRS_DB = (20.0, 10.0)
LONG_S = 30.0
NUM_TIMED = 8
Sounds = Mapping[str, np.ndarray]


@dataclass
class Report:
    figures: list[Figure] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """More figures, without bars."""
    asked: list[dict[str, object]] = field(default_factory=list)
    """Everything that was asked, heard and answered."""


def examine_outside(
    engine: Engine,
    voices: Voices,
    folder: Path,
    *,
    unknown: Sequence[str],
    every: int = 1,
    num_spoken_replies: int = 500,
) -> Report:
    """folder: of the runs, which are left in it. unknown: the voices that training has not heard. every: only
    each n-th question and dialogue of a kind. num_spoken_replies: how many replies are made to look for those
    that run away."""
    return _Examination(engine, voices, folder, every).examine(unknown, num_spoken_replies)


class _Examination:
    def __init__(self, engine: Engine, voices: Voices, folder: Path, every: int) -> None:
        self._engine = engine
        self._voices = voices
        self._folder = folder
        self._media = Media(folder / "media")
        self._asked = questions()[::every]
        self._talks = dialogues()[::every]
        self._report = Report()

    def examine(self, unknown: Sequence[str], num_spoken_replies: int) -> Report:
        asked = self._asked
        inside = [question for question in asked if question.rule != "unknown"]
        outside = [question for question in asked if question.rule == "unknown"]
        typed = self._typed("typed", asked)
        self._keep("typed", asked, typed)
        self._figure("natural wording, typed: right", _right(typed, asked, inside), 90)
        self._figure("questions outside, typed: refused", _right(typed, asked, outside), 90)
        for style in STYLES:
            drawn = self._typed(f"pictures-{style}", [q for q in inside if q.scene], style=style)
            self._line(f"pictures, {style}: {right_per_cent(drawn):.1f} % right")
        for rule in ("number", "has", "exactly"):
            own = [q for q in inside if q.rule == rule and not q.scene]
            self._line(f"typed, rule {rule}: {_right(typed, asked, own):.1f} % right")
        repeated = [question for question in inside if question.rule == "exactly"]
        for voice in (OWN, *unknown):
            sounds = self._voices.say(voice, (question.text for question in asked))
            heard = self._spoken(f"spoken-{voice}", asked, sounds, ROOM)
            self._keep(voice, asked, heard)
            most, least = (5.0, 92.0) if voice == OWN else (12.0, 85.0)
            name = "own voice" if voice == OWN else f"unknown voice {voice}"
            around = f"{name}, 1 s of room at both ends"
            self._figure(f"{around}: word error", per_cent(heard, "heard_wer"), most, is_most=True)
            self._figure(f"{around}: right", _right(heard, asked, inside), least)
            self._figure(f"{name}: refused", _right(heard, asked, outside), 90)
            self._figure(f"{name}: said after", _right(heard, asked, repeated), 80)
            both = [is_right(h) for t, h in zip(typed.scored, heard.scored, strict=True) if is_right(t)]
            self._line(
                f"{name}: of {len(both)} right when typed, {100 * np.mean(both):.1f} % are when spoken"
            )
            self._dialogues(voice)
        self._silences(asked[:: max(1, len(asked) // 20)])
        self._long(unknown)
        self._replies(num_spoken_replies)
        return self._report

    # --- parts ------------------------------------------------------------------------------------

    def _dialogues(self, voice: str) -> None:
        talks = self._talks
        names = [talk for talk in talks if set(talk.accepted) <= {name.lower() for name in NAMES}]
        if voice == OWN:
            typed = self._typed("dialogues-typed", talks)
            self._keep("dialogues, typed", talks, typed)
            self._line(f"dialogues, typed: {right_per_cent(typed):.1f} % right")
            self._line(f"names remembered, typed: {_right(typed, talks, names):.1f} %")
        sounds = self._voices.say(voice, (turn for talk in talks for turn in talk.turns))
        spoken = self._spoken(f"dialogues-{voice}", talks, sounds, ROOM)
        self._keep(f"dialogues, {voice}", talks, spoken)
        self._line(f"dialogues, {voice}: {right_per_cent(spoken):.1f} % right")
        self._figure(f"names remembered, {voice}", _right(spoken, talks, names), 90)

    def _silences(self, asked: Sequence[Question]) -> None:
        """Of the own voice: silence alone, and noise."""
        sounds = self._voices.say(OWN, (question.text for question in asked))
        rooms = [*SILENCES, *(Room(1.0, 1.0, snr_db=snr_db) for snr_db in SNRS_DB)]
        for number, room in enumerate(rooms):
            heard = self._spoken(f"silence-{number}", asked, sounds, room)
            noise = "" if room.snr_db is None else f", noise at {room.snr_db:g} dB"
            silence = f"{room.before_s:g} s before, {room.pause_s:g} s within, {room.after_s:g} s after"
            self._line(
                f"own voice, silence of {silence}{noise}: word error {per_cent(heard, 'heard_wer'):.1f} %, "
                f"{right_per_cent(heard):.1f} % right"
            )

    def _long(self, unknown: Sequence[str]) -> None:
        """Half a minute of questions, one after another: heard as one question, and as a recording."""
        texts = [question.text for question in questions() if not question.scene and question.rule == "has"]
        for voice in (OWN, *unknown):
            sounds = self._voices.say(voice, texts[:16])
            taken = texts[:16]
            while len(joined([sounds[text] for text in taken])) > LONG_S * RATE_HZ:
                taken = taken[:-1]
            recording = self._media.sound(joined([sounds[text] for text in taken]), RATE_HZ)
            text, name = said(" ".join(taken)), f"{LONG_S:g} s of {voice}"
            cases = [Case("0", "long", recording, text=text, references=(text,))]
            folder = self._folder / f"long-{voice}"
            heard = run_task(self._engine, folder, "spoken-qa", cases, reply="text")
            self._figure(f"{name}: word error", per_cent(heard, "heard_wer"), 20, is_most=True)
            cut = run_task(self._engine, self._folder / f"long-{voice}-cut", "asr", cases)
            self._line(f"{name}, cut at its pauses: word error {per_cent(cut, 'wer'):.1f} %")

    def _replies(self, num: int) -> None:
        """Replies that never end, and how soon and how evenly streamed ones come."""
        asked = [question for question in questions() if not question.scene]
        spoken = [question for question, _ in zip(cycle(asked), range(num), strict=False)]
        made = run_task(
            self._engine,
            self._folder / "replies",
            "spoken-qa",
            self._cases(spoken, None, None, None),
            ask="text",
            timed=NUM_TIMED,
        )
        endless = sum(each.counts.get("unfinished", (1.0, 1.0))[0] for each in made.scored)
        self._figure(f"runaway replies of {num}", endless, 0, is_most=True, unit="")
        sounds, gaps = (
            [each.counts[key][0] / 1000 for each in made.scored if key in each.counts]
            for key in ("first_sound_ms", "gap_ms")
        )
        self._line(f"streamed: first sound after {statistics.median(sounds):.2f} s (median)")
        self._line(f"streamed: a player waits up to {max(gaps):.2f} s in a reply (of {len(gaps)} replies)")

    # --- asking -----------------------------------------------------------------------------------

    def _typed(self, name: str, asked: Sequence[Question], *, style: str | None = None) -> Answers:
        """style: of the pictures; None: each another one."""
        return run_task(self._engine, self._folder / name, "vqa", self._cases(asked, None, None, style))

    def _spoken(self, name: str, asked: Sequence[Question], sounds: Sounds, room: Room) -> Answers:
        cases = self._cases(asked, sounds, room, None)
        return run_task(self._engine, self._folder / name, "spoken-qa", cases, reply="text")

    def _cases(
        self, asked: Sequence[Question], sounds: Sounds | None, room: Room | None, style: str | None
    ) -> list[Case]:
        """Typed if there are no sounds. Their ids are their numbers."""
        styles, cases = cycle(STYLES), []
        for number, question in enumerate(asked):
            picture = None
            if question.scene is not None:
                picture = self._media.picture(draw(question.scene, style or next(styles)))
            heard: list[dict[str, Any]] = []
            for turn in question.turns:
                if sounds is None or room is None:
                    heard.append({"text": turn})
                else:
                    recording = self._media.sound(room.heard(sounds[turn], number), RATE_HZ)
                    heard.append({"audio": recording, "text": said(turn)})
            heard[0]["image"] = picture
            *before, last = heard
            cases.append(
                Case(
                    str(number),
                    question.rule,
                    references=question.references,
                    rule=question.scored_by,
                    turns=tuple(Turn(**fields) for fields in before),
                    **last,
                )
            )
        return cases

    # --- telling ----------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        self._report.lines.append(text)

    def _figure(self, name: str, value: float, bar: float, *, is_most: bool = False, unit: str = "%") -> None:
        if value == value:  # of what was not asked there is no figure
            self._report.figures.append(Figure(name, value, bar, is_most, unit))

    def _keep(self, how: str, asked: Sequence[Question], answers: Answers) -> None:
        for question, each in zip(asked, answers.scored, strict=True):
            self._report.asked.append(
                {
                    "how": how,
                    "right": is_right(each),
                    "said": list(question.turns),
                    "scene": question.scene,
                    "heard": each.transcript,
                    "accepted": list(question.accepted),
                    "answer": each.text,
                }
            )


def _right(answers: Answers, asked: Sequence[Question], of: Sequence[Question]) -> float:
    """Per cent of some questions of those that were asked."""
    wanted = set(of)
    return right_per_cent(answers, {str(n) for n, question in enumerate(asked) if question in wanted})
