"""What is said in training: sentences of the world, and others in which any word may stand anywhere.

The second kind keeps hearing from guessing a word by its neighbours alone.
"""

from __future__ import annotations

import random
from pathlib import Path

from antiphon_tiny.world import words
from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.knowing import ask_fact, ask_unknown
from antiphon_tiny.world.looking import ask_about_picture, follow_up
from antiphon_tiny.world.scene import draw_scene
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.talking import (
    ask_name,
    ask_sum,
    ask_to_say,
    chat,
    count_up,
    next_number,
    sum_after,
)
from antiphon_tiny.world.wordings import ask_outside, reworded

__all__ = ["draw", "of_the_world", "scrambled"]

# Short everyday words beyond the world's own, picked so that every sound of English meets most others.
OTHERS = (Path(__file__).parent / "words.txt").read_text().split()
NAMES = words.NAMES
SMALL = (
    "a", "an", "the", "and", "or", "but", "in", "on", "at", "to", "of", "from", "with", "for", "by",
    "is", "are", "was", "has", "can", "will", "do", "does", "not", "it", "you", "we",
)  # fmt: skip
ACTIONS = (
    "has", "sees", "wants", "finds", "likes", "needs", "gives", "takes", "holds", "hears", "makes", "paints",
)  # fmt: skip
WHERE = ("under", "over", "near", "behind", "in", "on", "above", "beside", "below", "between")


def scrambled(rng: random.Random) -> str:
    """Two to eight words in any order."""
    pools = (OTHERS, OTHERS, words.NOUNS, words.ADJECTIVES, SMALL, words.NUMBERS, words.COLOURS, words.KINDS)
    chosen = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 8))]
    if rng.random() < 0.2:
        chosen.insert(rng.randint(0, len(chosen)), rng.choice(NAMES))
    return _marked(chosen, rng)


def _ordered(rng: random.Random) -> str:
    """Something like a sentence, of any words."""
    noun = [rng.choice(words.NOUNS + words.KINDS + tuple(OTHERS[:: rng.randint(1, 3)])) for _ in range(2)]
    kind = rng.choice(words.ADJECTIVES + words.COLOURS + words.SIZES)
    verb = rng.choice(ACTIONS)
    place = rng.choice(WHERE)
    pattern = rng.choice(
        [
            "{name} {verb} the {kind} {a} {place} the {b}.",
            "the {kind} {a} {verb} {number} of them.",
            "is there a {kind} {a} {place} the {b}?",
            "how many {a}s are {place} the {b}?",
            "do you know where the {kind} {a} is?",
            "there are {number} {a}s and {other} {b}s.",
            "what is {number} plus {other}?",
            "say after me: the {a} is {place} the {kind} {b}.",
            "please tell me about the {a}, {name}.",
            "I think the {a} is {kind}, but the {b} is not.",
        ]
    )
    numbers = rng.sample(words.NUMBERS, 2)
    text = pattern.format(
        name=rng.choice(NAMES), verb=verb, kind=kind, place=place, a=noun[0], b=noun[1],
        number=numbers[0], other=numbers[1],
    )  # fmt: skip
    return text[0].upper() + text[1:]


def _marked(chosen: list[str], rng: random.Random) -> str:
    text = " ".join(chosen)
    if len(chosen) > 4 and rng.random() < 0.3:
        cut = rng.randint(2, len(chosen) - 2)
        text = " ".join(chosen[:cut]) + ", " + " ".join(chosen[cut:])
    return text[0].upper() + text[1:] + rng.choice("....?!")


def of_the_world(rng: random.Random) -> tuple[str, bool]:
    """A question or an answer, and whether training must see it whatever its digest."""
    kind = rng.random()
    if kind < 0.4:
        scene = draw_scene(rng)
        exchange = ask_about_picture(rng, scene)
        if rng.random() < 0.2:
            exchange = follow_up(rng, scene, exchange) or exchange
    else:
        asks = (ask_sum, ask_fact, ask_to_say, ask_to_say, ask_unknown, chat, count_up, next_number)
        exchange = rng.choice((*asks, _told_name, _told_name, _sum_of_two, ask_outside))(rng)
    if rng.random() < 0.5:
        return reworded(rng, exchange.question), exchange.closed
    return exchange.answer, exchange.closed


def _told_name(rng: random.Random) -> Exchange:
    """A name, or the question for it: what nobody has heard spoken cannot be remembered."""
    return rng.choice(ask_name(rng))


def _sum_of_two(rng: random.Random) -> Exchange:
    """A sum that goes on from another."""
    return sum_after(rng, ask_sum(rng)) or ask_sum(rng)


def draw(count: int, seed: str, *, world_share: float, held_out: bool) -> list[str]:
    """`count` sentences, `world_share` of them of the world. held_out: whether only those that training never
    sees, or only the others."""
    rng = random.Random(f"sentences {seed} {held_out}")
    seen: set[str] = set()
    texts: list[str] = []
    while len(texts) < count:
        closed = False
        if rng.random() < world_share:
            text, closed = of_the_world(rng)
        else:
            text = scrambled(rng) if rng.random() < 0.5 else _ordered(rng)
        allowed = is_held_out(text) == held_out or (closed and not held_out)
        # Sentences of a small world run out: one in four may come again.
        if allowed and (text not in seen or rng.random() < 0.25):
            seen.add(text)
            texts.append(text)
    return texts
