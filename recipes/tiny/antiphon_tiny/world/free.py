"""Talk about anything: what is said after somebody in any words, names by the hundred, and questions about
the rest of the world, which have one answer.

Most of its words (`everyday.txt`) have no token of their own: they are spelled, byte by byte. So a model that
learns from this keeps words that it does not know, and does not take them for others.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from antiphon_tiny.world.exchange import Exchange, Sample
from antiphon_tiny.world.knowing import FACTS, UNKNOWN
from antiphon_tiny.world.phrasing import drawn, everyday, framed, is_examined, phrased
from antiphon_tiny.world.samples import draw_sample
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.words import COLOURS, NAMES, NUMBERS, article, sentence

__all__ = ["ask_beyond", "ask_day_before", "draw_free", "everyday", "free_sentence", "names_told", "say_free"]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NAMED = 0.5
"""The part of the names that have a token of their own."""
AT_ONCE = 0.1
"""How often a name is told and asked for in one turn."""


@cache
def _templates() -> dict[str, list[str]]:
    """By section of `free.txt`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in (Path(__file__).parent / "free.txt").read_text().splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            name = line[1:-1]
        elif line and line[0] != "#":
            found.setdefault(name, []).append(line)
    return found


def draw_free(rng: random.Random) -> Sample:
    """A conversation without a picture, in words beyond the grammar's more often than not."""
    kind = rng.random()
    if kind < 0.4:
        return draw_sample(rng, "train", pictures=0.0)
    if kind < 0.6:
        return Sample((*_before(rng), say_free(rng)))
    if kind < 0.78:
        return Sample((*_before(rng), ask_beyond(rng)))
    if kind < 0.8:
        return Sample((ask_day_before(rng),))
    told, asked = names_told(rng)
    if rng.random() < AT_ONCE:
        both = (phrased(rng, turn.question) for turn in (told, asked))
        return Sample((replace(asked, question=" ".join(both)),))
    between = draw_sample(rng, "train", pictures=0.0, max_turns=1).turns
    return Sample((told, *(between if rng.random() < 0.4 else ()), asked) if rng.random() < 0.85 else (told,))


def _before(rng: random.Random) -> tuple[Exchange, ...]:
    """Now and then an earlier turn."""
    return draw_sample(rng, "train", pictures=0.0, max_turns=1).turns if rng.random() < 0.15 else ()


def say_free(rng: random.Random) -> Exchange:
    """Anything, to be said after somebody."""
    while True:
        said = free_sentence(rng)
        answer = sentence(said)
        if not is_held_out(answer) and not is_examined(f"Say {said}"):
            return Exchange(f"Say {said}.", answer, "say")


def names_told(rng: random.Random) -> tuple[Exchange, Exchange]:
    """A name is told, and asked for later."""
    name = rng.choice(NAMES if rng.random() < NAMED else everyday()["names"])
    return (
        Exchange(f"My name is {name}.", f"Hello {name}.", "name", True),
        Exchange("What is my name?", f"Your name is {name}.", "name asked", True),
    )


def ask_day_before(rng: random.Random) -> Exchange:
    at = rng.randrange(7)
    answer = f"{DAYS[at - 1]} comes before {DAYS[at]}."
    return Exchange(f"Which day comes before {DAYS[at]}?", answer, "fact", True)


def ask_beyond(rng: random.Random) -> Exchange:
    """A question that the grammar has no answer to, some of them nearly one that it has."""
    while True:
        text = _filled(rng, rng.choice(_templates()["nearly" if rng.random() < 0.3 else "beyond"]))
        text = framed(rng, text[0].upper() + text[1:])
        if text not in _known() and not is_examined(text) and not is_held_out(text):
            return Exchange(text, UNKNOWN, "outside", True)


def free_sentence(rng: random.Random) -> str:
    """Some words, the first without a capital: something like a sentence, or only words."""
    return _filled(rng, rng.choice(_templates()["said"]))


def _filled(rng: random.Random, form: str) -> str:
    words = everyday()
    pools = {
        "noun": words["nouns"], "adj": words["adjectives"], "verb": words["verbs"], "place": words["places"],
        "time": words["times"], "land": words["lands"], "topic": words["topics"],
        "name": (*words["names"], *NAMES), "number": NUMBERS[2:], "any": (*NUMBERS[2:], *words["large"]),
        "few": NUMBERS[2:12], "large": words["large"],
    }  # fmt: skip
    pools["word"] = (
        *pools["noun"], *pools["adj"], *pools["verb"], *pools["time"], *NUMBERS, *COLOURS, *pools["land"],
    )  # fmt: skip
    text = drawn(rng, form)
    for kind, pool in pools.items():
        while (slot := "{" + kind + "}") in text:
            text = text.replace(slot, rng.choice(pool), 1)
        if (slot := "{a_" + kind + "}") in text:
            text = text.replace(slot, article(rng.choice(pool)))
    text = text.replace("{a_beast}", article(rng.choice(words["beasts"])))
    return " ".join(text.split()).replace(" ?", "?").replace(" .", ".")


@cache
def _known() -> frozenset[str]:
    """Questions that have another answer."""
    return frozenset(question for forms, _ in FACTS for question in forms)


def spoken_form(rng: random.Random, turn: Exchange) -> Exchange:
    """The exchange with its question in one of many wordings."""
    return replace(turn, question=phrased(rng, turn.question))
