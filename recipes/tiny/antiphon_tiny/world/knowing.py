"""Facts, and questions without an answer."""

from __future__ import annotations

import random

from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.words import ADJECTIVES, NAMES, NOUNS, article, sentence

__all__ = ["FACTS", "UNKNOWN", "UNKNOWN_PLACES", "ask_fact", "ask_unknown"]

UNKNOWN = "I don't know that."


def _facts() -> list[tuple[tuple[str, ...], str]]:
    """(ways to ask, answer) of each."""
    facts: list[tuple[tuple[str, ...], str]] = []
    forms: tuple[str, ...]
    for thing, colour in (
        ("grass", "green"),
        ("snow", "white"),
        ("the sky", "blue"),
        ("the sun", "yellow"),
        ("blood", "red"),
        ("coal", "black"),
        ("milk", "white"),
        ("a banana", "yellow"),
        ("a tomato", "red"),
        ("a frog", "green"),
    ):
        forms = (
            "What colour is {}?",
            "Which colour is {}?",
            "Tell me the colour of {}.",
            "What colour has {}?",
        )
        facts.append((_each(forms, thing), sentence(f"{thing} is {colour}")))
    for animal, sound in (("dog", "woof"), ("cat", "meow"), ("cow", "moo"), ("duck", "quack")):
        forms = (
            "What does a {} say?",
            "What sound does a {} make?",
            "How does a {} speak?",
            "What says a {}?",
        )
        facts.append((_each(forms, animal), f"A {animal} says {sound}."))
    for animal, legs in (
        ("dog", "four"),
        ("cat", "four"),
        ("bird", "two"),
        ("spider", "eight"),
        ("fish", "no"),
        ("snake", "no"),
    ):
        forms = (
            "How many legs has a {}?",
            "How many legs does a {} have?",
            "Tell me how many legs a {} has.",
            "How many legs do you see on a {}?",
        )
        facts.append((_each(forms, animal), f"A {animal} has {legs} legs."))
    for animal, home in (("fish", "in water"), ("bird", "in a tree"), ("bear", "in the forest")):
        forms = ("Where does a {} live?", "Tell me where a {} lives.", "Where is the home of a {}?")
        facts.append((_each(forms, animal), f"A {animal} lives {home}."))
    for country, city in (
        ("France", "Paris"),
        ("Italy", "Rome"),
        ("Spain", "Madrid"),
        ("Germany", "Berlin"),
        ("England", "London"),
        ("Japan", "Tokyo"),
    ):
        forms = (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Tell me the capital of {}.",
            "What city is the capital of {}?",
        )
        facts.append((_each(forms, country), f"The capital of {country} is {city}."))
    for word, other in (
        ("hot", "cold"),
        ("up", "down"),
        ("day", "night"),
        ("left", "right"),
        ("big", "small"),
        ("old", "young"),
        ("happy", "sad"),
        ("long", "short"),
    ):
        forms = (
            "What is the opposite of {}?",
            "Tell me the opposite of {}.",
            "Which word is the opposite of {}?",
        )
        facts.append((_each(forms, word), f"The opposite of {word} is {other}."))
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    for day, following in zip(days, (*days[1:], days[0]), strict=True):
        forms = ("What day comes after {}?", "Which day comes after {}?", "Which day is after {}?")
        facts.append((_each(forms, day), f"{following} comes after {day}."))
    for many, whole, n in (
        ("days", "week", "seven"),
        ("months", "year", "twelve"),
        ("fingers", "hand", "five"),
        ("sides", "triangle", "three"),
    ):
        forms = (
            f"How many {many} has a {{}}?",
            f"How many {many} does a {{}} have?",
            f"How many {many} are in a {{}}?",
        )
        facts.append((_each(forms, whole), f"A {whole} has {n} {many}."))
    for verb, things in (("make", (("bees", "honey"), ("bakers", "bread"))), ("give", (("cows", "milk"),))):
        for who, what in things:
            facts.append(
                (
                    (f"What do {who} {verb}?", f"Tell me what {who} {verb}."),
                    f"{who} {verb} {what}.".capitalize(),
                )
            )
    return facts


def _each(forms: tuple[str, ...], thing: str) -> tuple[str, ...]:
    return tuple(form.format(thing) for form in forms)


FACTS = _facts()

UNKNOWN_PLACES = ("Russia", "China", "Brazil", "Canada")
KNOWN_QUESTIONS = frozenset(question for forms, _ in FACTS for question in forms)
UNKNOWN_FORMS = (
    "Who is the {noun} of {place}?",
    "What is the capital of {place}?",
    "How far is the {noun}?",
    "How far is {place}?",
    "Why is the {noun} {adjective}?",
    "When does the {noun} leave?",
    "Who made this {noun}?",
    "How old is the {noun}?",
    "What does {a_noun} cost?",
    "What colour is {a_noun}?",
    "Where does {a_noun} come from?",
    "Who is {name}?",
    "Where does {name} live?",
    "When does {name} come home?",
    "What is the name of the {noun}?",
    "Why does {name} like the {noun}?",
    "How heavy is {a_noun}?",
    "Who has my {noun}?",
    "What will the weather be in {place}?",
    "When was the {noun} built?",
)


def ask_fact(rng: random.Random) -> Exchange:
    forms, answer = rng.choice(FACTS)
    return Exchange(rng.choice(forms), answer, "fact", True)


def ask_unknown(rng: random.Random) -> Exchange:
    """A question outside of the world."""
    while True:
        noun = rng.choice(NOUNS)
        question = rng.choice(UNKNOWN_FORMS).format(
            noun=noun,
            a_noun=article(noun),
            place=rng.choice(UNKNOWN_PLACES),
            adjective=rng.choice(ADJECTIVES),
            name=rng.choice(NAMES),
        )
        if question not in KNOWN_QUESTIONS:
            return Exchange(question, UNKNOWN, "unknown", True)
