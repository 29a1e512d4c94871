"""The words of the world: what a picture may show, and what else may be spoken of."""

from __future__ import annotations

import re

__all__ = [
    "ADJECTIVES",
    "COLOURS",
    "KINDS",
    "NAMES",
    "NOUNS",
    "NUMBERS",
    "PLACES",
    "PLURALS",
    "SIZES",
    "VERBS",
    "article",
    "number",
    "plural",
    "sentence",
    "words_of",
]


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


KINDS = _listed("circle square triangle star heart cross")
PLURALS = {"cross": "crosses"}
COLOURS = _listed("red green blue yellow orange purple pink black")
SIZES = ("small", "big")

NUMBERS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)

PLACES = {
    (0, 0): "at the top left",
    (0, 1): "at the top",
    (0, 2): "at the top right",
    (1, 0): "on the left",
    (1, 1): "in the middle",
    (1, 2): "on the right",
    (2, 0): "at the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "at the bottom right",
}
"""(row, column) of a grid of three by three to its name."""

NAMES = _listed("Anna Tom Mary John Peter Lucy Emma Jack Sam Kate Paul Rose Ben Alice David Sarah")

# Nouns, verbs and adjectives of everyday sentences. Nobody asks facts about most of them: they are there to
# be heard and said, and to be asked about in vain.
NOUNS = _listed(
    "dog cat bird horse cow duck sheep frog fish bear king queen doctor teacher baker farmer boy girl man "
    "woman car train ship bus house door window table chair garden river road bridge school shop book letter "
    "song apple cake flower tree mountain village market kitchen clock lamp coat hat box bag stone boat "
    "friend"
)
ADJECTIVES = _listed(
    "old young little new good long short warm cold quiet happy sad slow quick tired white brown grey strong"
)
VERBS = {
    "runs": ("home", "fast", "away", "to the market", "over the bridge"),
    "sleeps": ("in the garden", "at night", "under the tree", "in the kitchen"),
    "sits": ("on the chair", "by the window", "near the river", "under the tree"),
    "sings": ("a song", "in the morning", "at school", "in the garden"),
    "goes": ("home", "to school", "to the market", "over the mountain"),
    "waits": ("at the door", "for a friend", "near the bridge", "by the road"),
    "comes": ("home", "from the village", "in the evening", "to the house"),
    "looks": ("at the clock", "at the flower", "for a coat", "out of the window"),
    "likes": ("the cake", "the apple", "the river", "a good book"),
    "has": ("a hat", "a box", "a bag", "a little boat"),
    "stands": ("by the door", "on the road", "near the house", "on the bridge"),
    "finds": ("a stone", "the letter", "a lamp", "the road home"),
}
"""Verbs with what may follow them."""


def plural(kind: str) -> str:
    return PLURALS.get(kind, kind + "s")


def number(n: int) -> str:
    return NUMBERS[n]


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(text: str, mark: str = ".") -> str:
    """`text` with a capital at its beginning and a mark at its end."""
    return text[0].upper() + text[1:] + mark


def words_of(text: str) -> list[str]:
    """Its words in lower case, without marks: what two texts are compared by."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())
