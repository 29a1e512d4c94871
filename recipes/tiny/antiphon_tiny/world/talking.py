"""Small talk, sums, counting, names to be remembered, and "say after me"."""

from __future__ import annotations

import random

from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.words import (
    ADJECTIVES,
    COLOURS,
    KINDS,
    NAMES,
    NOUNS,
    NUMBERS,
    VERBS,
    number,
    sentence,
)

__all__ = ["TALK", "ask_name", "ask_sum", "ask_to_say", "chat", "count_up", "next_number", "sum_after"]

TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello.", "Hello Antiphon.", "Hello there.", "Hi.", "Hi Antiphon.", "Hi there."), "Hello."),
    (("Good morning.", "Good morning Antiphon.", "A good morning to you."), "Good morning."),
    (("Good evening.", "Good evening Antiphon.", "A good evening to you."), "Good evening."),
    (("Good night.", "Good night Antiphon.", "Sleep well."), "Good night."),
    (
        ("How are you?", "How are you today?", "How are you Antiphon?", "Are you well?", "How do you feel?"),
        "I am fine thank you.",
    ),
    (
        ("What is your name?", "Who are you?", "Tell me your name.", "Do you have a name?"),
        "My name is Antiphon.",
    ),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "Can you help me?"),
        "I can see shapes and answer questions.",
    ),
    (
        ("Thank you.", "Thank you Antiphon.", "Thank you very much.", "Thanks.", "Many thanks."),
        "You are welcome.",
    ),
    (("Goodbye.", "Goodbye Antiphon.", "Bye.", "Bye Antiphon.", "See you soon."), "Goodbye."),
    (
        ("Can you hear me?", "Do you hear me?", "Are you there?", "Do you hear what I say?"),
        "Yes I can hear you.",
    ),
    (
        ("Are you a man?", "Are you a woman?", "Are you a machine?", "Are you a computer?", "What are you?"),
        "I am a small model.",
    ),
    (("How old are you?", "What is your age?", "Are you old?", "Are you young?"), "I am very young."),
    (
        ("Where do you live?", "Where are you?", "Where is your home?", "Tell me where you live."),
        "I live in this computer.",
    ),
    (("Do you like music?", "Do you like a song?", "Can you sing?", "Sing a song."), "I like music."),
    (
        ("Tell me a joke.", "Do you know a joke?", "Say something funny.", "Make me laugh."),
        "I know no jokes.",
    ),
    (("I am happy.", "I am very happy.", "I am happy today.", "I feel good."), "I am glad."),
    (("I am sad.", "I am very sad.", "I am sad today.", "I feel sad.", "I am tired."), "I am sorry."),
    (("Are you happy?", "Are you happy today?", "Do you feel happy?"), "Yes I am happy."),
    (("Do you sleep?", "Are you tired?", "Do you need to sleep?"), "No I never sleep."),
    (("Do you like me?", "Are you my friend?", "Do you want to be my friend?"), "Yes I am your friend."),
)
SUMS = ("What is {}?", "How much is {}?", "Tell me what {} is.", "What makes {}?", "Can you say what {} is?")
SAY = ("Say after me {}.", "Please say {}.", "Say {}.", "Repeat after me {}.")


def chat(rng: random.Random) -> Exchange:
    forms, answer = rng.choice(TALK)
    return Exchange(rng.choice(forms), answer, "talk", True, True)


def ask_sum(rng: random.Random) -> Exchange:
    """Addition or subtraction of numbers up to twenty; a result that is not in that range is unknown."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if rng.random() < 0.97:
        if rng.random() < 0.6:
            total = rng.randint(0, 20)
            a = rng.randint(0, total)
            b = total - a
            return _sum(rng, a, "plus", b)
        a, b = max(a, b), min(a, b)
    return _sum(rng, a, rng.choice(("plus", "minus")) if a + b > 20 else "minus", b)


def _sum(rng: random.Random, a: int, operation: str, b: int) -> Exchange:
    return _with_sum(rng.choice(SUMS).format(f"{number(a)} {operation} {number(b)}"), a, operation, b, "sum")


def _with_sum(question: str, a: int, operation: str, b: int, topic: str) -> Exchange:
    result = a + b if operation == "plus" else a - b
    if not 0 <= result <= 20:
        return Exchange(question, "I don't know that.", topic, True)
    answer = sentence(f"{number(a)} {operation} {number(b)} is {number(result)}")
    return Exchange(question, answer, topic, True, about=result)


def sum_after(rng: random.Random, before: Exchange) -> Exchange | None:
    """A sum that goes on from the result of the one before."""
    if not isinstance(before.about, int):
        return None
    operation = rng.choice(("plus", "minus"))
    room = 20 - before.about if operation == "plus" else before.about
    step = rng.randint(0, min(room, 9))
    return _with_sum(f"And {operation} {number(step)}?", before.about, operation, step, "sum after")


def count_up(rng: random.Random) -> Exchange:
    last = rng.randint(2, 10)
    form = rng.choice(("Count to {}.", "Can you count to {}?", "Please count to {}.", "Count up to {}."))
    return Exchange(form.format(number(last)), sentence(" ".join(NUMBERS[1 : last + 1])), "count up", True)


def next_number(rng: random.Random) -> Exchange:
    n = rng.randint(1, 19)
    side, other = rng.choice((("after", n + 1), ("before", n - 1)))
    form = rng.choice(("What comes {} {}?", "Which number comes {} {}?", "Which number is {} {}?"))
    answer = sentence(f"{number(other)} comes {side} {number(n)}")
    return Exchange(form.format(side, number(n)), answer, "next number", True)


def ask_to_say(rng: random.Random) -> Exchange:
    words = sentence_to_say(rng)
    return Exchange(rng.choice(SAY).format(words), sentence(words), "say")


def sentence_to_say(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        verb = rng.choice(tuple(VERBS))
        who = f"{rng.choice(('the', 'the', 'a', 'my', 'your'))} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
        if who.startswith("a ") and who[2] in "aeiou":
            who = "an" + who[1:]
        if rng.random() < 0.2:
            who = rng.choice(NAMES)
        return f"{who} {verb} {rng.choice(VERBS[verb])}"
    if kind < 0.75:
        return " ".join(number(rng.randint(0, 20)) for _ in range(rng.randint(2, 5)))
    if kind < 0.9:
        a, b = rng.choice(COLOURS), rng.choice(KINDS)
        where = rng.choice(("near", "left of", "right of", "above", "below"))
        return f"the {a} {b} is {where} the {rng.choice(NOUNS)}"
    return " ".join(rng.choice((*NOUNS, *ADJECTIVES, *COLOURS)) for _ in range(rng.randint(2, 5)))


def ask_name(rng: random.Random) -> tuple[Exchange, Exchange]:
    """A name is told, and asked for later."""
    name = rng.choice(NAMES)
    told = rng.choice(("My name is {}.", "I am {}.", "Hello I am {}.", "You can call me {}.", "Call me {}."))
    asked = rng.choice(("What is my name?", "Who am I?", "Do you know my name?", "Tell me my name."))
    return (
        Exchange(told.format(name), f"Hello {name}.", "name", True),
        Exchange(asked, f"Your name is {name}.", "name asked", True),
    )
