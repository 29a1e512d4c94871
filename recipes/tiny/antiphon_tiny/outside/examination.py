"""Asks a model from outside, typed and by voice, and compares what it hears and answers with the bars."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TypeVar

import numpy as np

from antiphon import (
    AsyncEngine,
    AudioDelta,
    Completion,
    Engine,
    Image,
    Message,
    Request,
    SamplingParams,
    Speech,
)
from antiphon.types import Part
from antiphon_tiny.examination import Figure
from antiphon_tiny.outside.drawings import STYLES, draw
from antiphon_tiny.outside.questions import Question, dialogues, plain_words, questions, said
from antiphon_tiny.outside.rooms import RATE_HZ, Room, joined
from antiphon_tiny.outside.voices import OWN, Voices
from antiphon_tiny.world.words import NAMES

__all__ = ["Report", "examine_outside"]

PARAMS = SamplingParams(max_tokens=40, max_units=375)
AT_A_TIME = 16
ROOM = Room(1.0, 1.0, snr_db=30.0)
"""In which the bars are to be met."""
SILENCES = (Room(), Room(0.5, 0.0), Room(2.0, 0.0), Room(0.0, 2.0), Room(3.0, 3.0), Room(1.0, 1.0, 1.0))
SNRS_DB = (20.0, 10.0)
LONG_S = 30.0
Item = TypeVar("Item")


@dataclass
class Report:
    figures: list[Figure] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """More figures, without bars."""
    asked: list[dict[str, object]] = field(default_factory=list)
    """Everything that was asked, heard and answered."""


@dataclass(frozen=True)
class _Asked:
    question: Question
    done: Completion

    @property
    def is_right(self) -> bool:
        return self.done.finish_reason == "stop" and self.question.is_right(self.done.text)


def examine_outside(
    engine: Engine, voices: Voices, *, unknown: Sequence[str], every: int = 1, num_spoken_replies: int = 500
) -> Report:
    """Closes the engine in the end.

    every: only each n-th question and dialogue of a kind. unknown: the voices that training has not heard.
    num_spoken_replies: how many replies are made to look for those that run away."""
    report = Report()
    asked = _some(questions(), every)
    inside = [question for question in asked if question.rule != "unknown"]
    outside = [question for question in asked if question.rule == "unknown"]
    typed = _ask(engine, asked, None, None)
    _keep(report, "typed", typed)
    _figure(report, "natural wording, typed: right", _right(typed, inside), 90)
    _figure(report, "questions outside, typed: refused", _right(typed, outside), 90)
    for style in STYLES:
        drawn = _ask(engine, [q for q in inside if q.scene], None, None, style=style)
        report.lines.append(f"pictures, {style}: {_right(drawn):.1f} % right")
    for rule in ("number", "has", "exactly"):
        own = [q for q in inside if q.rule == rule and not q.scene]
        report.lines.append(f"typed, rule {rule}: {_right(typed, own):.1f} % right")
    repeated = [question for question in inside if question.rule == "exactly"]
    for voice in (OWN, *unknown):
        sounds = voices.say(voice, (question.text for question in asked))
        heard = _ask(engine, asked, sounds, ROOM)
        _keep(report, voice, heard)
        most, least = (5.0, 92.0) if voice == OWN else (12.0, 85.0)
        name = "own voice" if voice == OWN else f"unknown voice {voice}"
        around = f"{name}, 1 s of room at both ends"
        _figure(report, f"{around}: word error", _word_error(heard), most, is_most=True)
        _figure(report, f"{around}: right", _right(heard, inside), least)
        _figure(report, f"{name}: refused", _right(heard, outside), 90)
        _figure(report, f"{name}: said after", _right(heard, repeated), 80)
        both = [h.is_right for t, h in zip(typed, heard, strict=True) if t.is_right]
        report.lines.append(
            f"{name}: of {len(both)} right when typed, {100 * np.mean(both):.1f} % are when spoken"
        )
        _dialogues(report, engine, voices, voice, every)
    _silences(report, engine, voices, asked[:: max(1, len(asked) // 20)])
    _long(report, engine, voices, unknown)
    _spoken_replies(report, engine, num_spoken_replies)
    return report


# --- parts ------------------------------------------------------------------------------------------------


def _dialogues(report: Report, engine: Engine, voices: Voices, voice: str, every: int) -> None:
    talks = _some(dialogues(), every)
    names = [talk for talk in talks if set(talk.accepted) <= {name.lower() for name in NAMES}]
    if voice == OWN:
        typed = _talk(engine, talks, None)
        _keep(report, "dialogues, typed", typed)
        report.lines.append(f"dialogues, typed: {_right(typed):.1f} % right")
        report.lines.append(f"names remembered, typed: {_right(typed, names):.1f} %")
    spoken = _talk(engine, talks, voices.say(voice, (turn for talk in talks for turn in talk.turns)))
    _keep(report, f"dialogues, {voice}", spoken)
    report.lines.append(f"dialogues, {voice}: {_right(spoken):.1f} % right")
    _figure(report, f"names remembered, {voice}", _right(spoken, names), 90)


def _silences(report: Report, engine: Engine, voices: Voices, asked: Sequence[Question]) -> None:
    """Of the own voice: silence alone, and noise."""
    sounds = voices.say(OWN, (question.text for question in asked))
    rooms = [*SILENCES, *(Room(1.0, 1.0, snr_db=snr_db) for snr_db in SNRS_DB)]
    for room in rooms:
        done = _ask(engine, asked, sounds, room)
        noise = "" if room.snr_db is None else f", noise at {room.snr_db:g} dB"
        silence = f"{room.before_s:g} s before, {room.pause_s:g} s within, {room.after_s:g} s after"
        report.lines.append(
            f"own voice, silence of {silence}{noise}: word error {_word_error(done):.1f} %, "
            f"{_right(done):.1f} % right"
        )


def _long(report: Report, engine: Engine, voices: Voices, unknown: Sequence[str]) -> None:
    """Half a minute of questions, one after another."""
    texts = [question.text for question in questions() if not question.scene and question.rule == "has"]
    for voice in (OWN, *unknown):
        sounds = voices.say(voice, texts[:16])
        taken = texts[:16]
        while len(joined([sounds[text] for text in taken])) > LONG_S * RATE_HZ:
            taken = taken[:-1]
        whole = joined([sounds[text] for text in taken])
        [done] = engine.generate([Request(Speech((whole, RATE_HZ)), ("transcript",))])
        spoken = plain_words(said(" ".join(taken)))
        error = 100 * _errors(spoken, plain_words(done.transcript)) / len(spoken)
        _figure(report, f"{LONG_S:g} s of {voice}: word error", error, 20, is_most=True)


def _spoken_replies(report: Report, engine: Engine, num: int) -> None:
    """Replies that never end, and how soon and how evenly streamed ones come."""
    texts = [question.text for question in questions() if not question.scene]
    requests = [Request(text, ("text", "audio")) for text, _ in zip(cycle(texts), range(num), strict=False)]
    params = [SamplingParams(max_tokens=40, max_units=375, seed=i) for i in range(num)]
    endless = 0
    for start in range(0, num, AT_A_TIME):
        batch = slice(start, start + AT_A_TIME)
        done = engine.generate(requests[batch], params[batch])
        endless += sum(each.finish_reason != "stop" for each in done)
    _figure(report, f"runaway replies of {num}", endless, 0, is_most=True, unit="")
    sounds, gaps = asyncio.run(_streamed(engine, requests[:8]))
    report.lines.append(f"streamed: first sound after {statistics.median(sounds):.2f} s (median)")
    report.lines.append(f"streamed: longest wait of a player {max(gaps):.2f} s (of {len(gaps)} replies)")


async def _streamed(engine: Engine, requests: Sequence[Request]) -> tuple[list[float], list[float]]:
    """For each reply: seconds to its first sound, and the longest that a player would have had to wait."""
    firsts, waits = [], []
    async with AsyncEngine.from_engine(engine) as served:
        for request in requests:
            begun = time.perf_counter()
            plays_until = first = None
            wait = 0.0
            async for event in served.stream(request, PARAMS):
                now = time.perf_counter() - begun
                if isinstance(event, AudioDelta):
                    if plays_until is None:
                        first = plays_until = now
                    wait = max(wait, now - plays_until)
                    plays_until = max(plays_until, now) + len(event.samples) / event.sample_rate_hz
            if first is not None:
                firsts.append(first)
                waits.append(wait)
    return firsts, waits


# --- asking -----------------------------------------------------------------------------------------------


def _ask(
    engine: Engine,
    asked: Sequence[Question],
    sounds: Mapping[str, np.ndarray] | None,
    room: Room | None,
    *,
    style: str | None = None,
) -> list[_Asked]:
    """Single questions, typed if there are no sounds. style: of the pictures; None: each another one."""
    styles = cycle(STYLES)
    requests = []
    for index, question in enumerate(asked):
        parts: list[Part] = []
        if question.scene is not None:
            parts.append(Image(draw(question.scene, style or next(styles))))
        if sounds is None or room is None:
            parts.append(question.text)
        else:
            parts.append(Speech((room.heard(sounds[question.text], index), RATE_HZ)))
        requests.append(Request(messages=[Message("user", parts)], modalities=("text",)))
    return [_Asked(q, done) for q, done in zip(asked, _generate(engine, requests), strict=True)]


def _talk(engine: Engine, talks: Sequence[Question], sounds: Mapping[str, np.ndarray] | None) -> list[_Asked]:
    """Dialogues, with the model's own replies in between."""
    styles = cycle(STYLES)
    histories: list[list[Message]] = [[] for _ in talks]
    done: list[Completion | None] = [None] * len(talks)
    for turn in range(max(len(talk.turns) for talk in talks)):
        going = [index for index, talk in enumerate(talks) if turn < len(talk.turns)]
        for index in going:
            talk = talks[index]
            parts: list[Part] = []
            if turn == 0 and talk.scene is not None:
                parts.append(Image(draw(talk.scene, next(styles))))
            text = talk.turns[turn]
            sound = None if sounds is None else ROOM.heard(sounds[text], index)
            parts.append(text if sound is None else Speech((sound, RATE_HZ)))
            histories[index].append(Message("user", parts))
        requests = [Request(messages=list(histories[index]), modalities=("text",)) for index in going]
        for index, each in zip(going, _generate(engine, requests), strict=True):
            done[index] = each
            histories[index].append(Message("assistant", each.text))
    return [_Asked(talk, each) for talk, each in zip(talks, done, strict=True) if each is not None]


def _generate(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    done: list[Completion] = []
    for start in range(0, len(requests), AT_A_TIME):
        done += engine.generate(list(requests[start : start + AT_A_TIME]), PARAMS)
    return done


# --- counting ---------------------------------------------------------------------------------------------


def _some(given: Sequence[Item], every: int) -> list[Item]:
    return list(given[::every])


def _right(asked: Iterable[_Asked], of: Sequence[Question] | None = None) -> float:
    """Per cent, of all that were asked or of these questions."""
    wanted = None if of is None else set(of)
    right = [each.is_right for each in asked if wanted is None or each.question in wanted]
    return 100 * float(np.mean(right)) if right else float("nan")


def _word_error(asked: Iterable[_Asked]) -> float:
    """Per cent of the words that were said."""
    wrong = total = 0
    for each in asked:
        spoken = plain_words(said(each.question.text))
        wrong += _errors(spoken, plain_words(each.done.transcript))
        total += len(spoken)
    return 100 * wrong / max(1, total)


def _errors(spoken: Sequence[str], heard: Sequence[str]) -> int:
    """The least number of words to be changed, added and left out."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(spoken, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def _figure(
    report: Report, name: str, value: float, bar: float, *, is_most: bool = False, unit: str = "%"
) -> None:
    if value == value:  # of what was not asked there is no figure
        report.figures.append(Figure(name, value, bar, is_most, unit))


def _keep(report: Report, how: str, asked: Iterable[_Asked]) -> None:
    for each in asked:
        report.asked.append(
            {
                "how": how,
                "right": each.is_right,
                "said": list(each.question.turns),
                "scene": each.question.scene,
                "heard": each.done.transcript,
                "accepted": list(each.question.accepted),
                "answer": each.done.text,
            }
        )
