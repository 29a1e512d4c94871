"""What is said for the stage "wider": questions in many wordings, names, words of all kinds, and answers."""

from __future__ import annotations

import random
from typing import Any

from antiphon_tiny.speech.sentences import of_the_world, scrambled
from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.free import ask_beyond, free_sentence, names_told, say_free
from antiphon_tiny.world.looking import ask_about_picture, follow_up
from antiphon_tiny.world.phrasing import is_examined, phrased
from antiphon_tiny.world.samples import draw_sample
from antiphon_tiny.world.scene import draw_scene
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.talking import ask_sum, sum_after
from antiphon_tiny.world.words import sentence

__all__ = ["draw_of_the_world", "draw_wider"]

KINDS = {"picture": 0.3, "talk": 0.2, "say": 0.2, "name": 0.13, "beyond": 0.12, "follow": 0.05}
WORDS = 0.07
"""The part of what is said that neither asks nor answers."""


def draw_wider(rng: random.Random, said_share: float) -> dict[str, Any]:
    """What is said next: {text}, and for a question {asks, answer, topic}; `answer` is None where it rests on
    a picture or on what was said before. said_share: the part that are answers."""
    while True:
        turn = _asked(rng, rng.choices(tuple(KINDS), tuple(KINDS.values()))[0])
        kind = rng.random()
        if kind < said_share and not _left_out(turn.answer, turn.closed):
            return {"text": turn.answer}
        if kind > 1 - WORDS:
            text = scrambled(rng) if rng.random() < 0.5 else sentence(free_sentence(rng))
            if not _left_out(text):
                return {"text": text}
            continue
        text = phrased(rng, turn.question)
        if not _left_out(text, turn.fixed):
            answer = None if turn.topic in ("picture", "follow") else turn.answer
            return {"text": text, "asks": turn.question, "answer": answer, "topic": turn.topic}


def draw_of_the_world(rng: random.Random) -> dict[str, Any]:
    """A question or an answer of the grammar: {text}."""
    while True:
        text, listed = of_the_world(rng)
        if not _left_out(text, listed):
            return {"text": text}


def _left_out(text: str, listed: bool = False) -> bool:
    return (is_held_out(text) and not listed) or is_examined(text)


def _asked(rng: random.Random, kind: str) -> Exchange:
    if kind == "say":
        return say_free(rng)
    if kind == "name":
        return names_told(rng)[rng.random() < 0.35]
    if kind == "beyond":
        return ask_beyond(rng)
    if kind == "talk":
        return draw_sample(rng, "train", pictures=0.0, max_turns=1).turns[0]
    scene = draw_scene(rng)
    turn = ask_about_picture(rng, scene)
    if kind == "follow":
        if rng.random() < 0.4:
            turn = sum_after(rng, ask_sum(rng)) or turn
        else:
            turn = follow_up(rng, scene, turn) or turn
        kind = "follow" if turn.fixed or turn.topic == "sum after" else "picture"
    return Exchange(turn.question, turn.answer, kind, turn.closed, turn.fixed)
