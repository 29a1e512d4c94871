"""Other ways to ask what the grammar asks, as people speak and type: short forms, digits, manners, fillers.

A question of the grammar keeps its answer however it is worded. Words that the vocabulary lacks are spelled,
so this changes neither the tokenizer nor what the grammar itself draws from a seed. What
`antiphon_tiny.outside` asks is never made here: it examines what is learned from this.
"""

from __future__ import annotations

import random
import re
from functools import cache, lru_cache

from antiphon_tiny.outside.questions import questions
from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.knowing import UNKNOWN
from antiphon_tiny.world.phrasing import phrased
from antiphon_tiny.world.samples import typed
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.talking import SAY
from antiphon_tiny.world.words import NUMBERS, sentence, words_of

__all__ = ["as_asked", "as_typed", "ask_outside", "in_digits", "reworded", "said_back", "ways"]

NUMBER = "(" + "|".join(sorted(NUMBERS, key=len, reverse=True)) + ")"
PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        rf"(?:What is|How much is|What makes) {NUMBER} plus {NUMBER}\?",
        (
            "What do {0} and {1} make?",
            "What do you get for {0} plus {1}?",
            "Add {0} and {1}.",
            "Please add {0} to {1}.",
            "{0} plus {1}?",
            "{0} and {1} is what?",
            "{0} plus {1} makes what?",
            "How much do {0} and {1} make together?",
            "What is {0} added to {1}?",
            "How many are {0} and {1}?",
        ),
    ),
    (
        rf"(?:What is|How much is|What makes) {NUMBER} minus {NUMBER}\?",
        (
            "What is left of {0} without {1}?",
            "Take {1} from {0}.",
            "{0} minus {1}?",
            "{0} minus {1} makes what?",
            "{0} less {1} is what?",
            "How much is {0} less {1}?",
            "What do you get for {0} minus {1}?",
            "I have {0} and give away {1}. How many have I left?",
        ),
    ),
    (
        rf"(?:What comes|Which number comes|Which number is) (after|before) {NUMBER}\?",
        ("What is the number {0} {1}?", "When I count, what comes {0} {1}?", "Which one is {0} {1}?"),
    ),
    (
        r"How many (.+?) (?:are there|do you see|can you see)\?",
        (
            "How many {0} are in this picture?",
            "How many {0} are shown?",
            "Tell me how many {0} you see.",
            "What is the number of {0}?",
        ),
    ),
    (
        r"(?:What|Which) colour is (the .+?)\?",
        (
            "What is the colour of {0}?",
            "In which colour is {0}?",
            "{0} is which colour?",
            "What colour has {0}?",
        ),
    ),
    (
        r"Where is (the .+?)\?",
        (
            "In which place is {0}?",
            "Where in the picture is {0}?",
            "Where does {0} lie?",
            "Show me where {0} is.",
        ),
    ),
    (
        r"Is there (an? .+?)\?",
        ("Does it show {0}?", "Is {0} in the picture?", "Is {0} there?", "Have you found {0}?"),
    ),
    (
        r"(?:What do you see|What is in the picture|Describe this picture)[?.]",
        ("What does it show?", "Look at it."),
    ),
    (
        r"(?:What|Which) colour is ((?!the )[\w ]+?)\?",
        ("What is the colour of {0}?", "In which colour is {0}?", "Which colour has {0}?"),
    ),
    (
        r"(?:What is|Which city is) the capital of (\w+)\?",
        ("Which city is the main one of {0}?", "The capital of {0} is which city?", "{0} has which capital?"),
    ),
    (
        r"How many legs (?:has|does) an? (\w+)(?: have)?\?",
        (
            "How many legs does one {0} have?",
            "On how many legs goes a {0}?",
            "What number of legs has a {0}?",
        ),
    ),
    (
        r"(?:What is|Which word is) the opposite of (\w+)\?",
        ("What is not {0}, but the opposite?", "The opposite of {0}?", "Say the opposite of {0}."),
    ),
    (
        r"(?:Say after me|Please say|Say|Repeat after me) (.+)\.",
        ("Now say {0}.", "Say it after me: {0}.", "Say: {0}."),
    ),
    (r"What is my name\?", ("How am I called?", "What am I called?", "My name is what?", "Say my name.")),
    (
        r"My name is (\w+)\.",
        (
            "I am called {0}.",
            "They call me {0}.",
            "Hello I am called {0}.",
            "{0} is my name.",
            "This is {0}.",
        ),
    ),
    (r"What is your name\?", ("How are you called?", "What are you called?", "Say your name.")),
)
"""Questions of the grammar, and other ways to ask them; each is a regular expression for a whole question."""
SHORT_FORMS = (
    ("What is", "What's"), ("Where is", "Where's"), ("Who is", "Who's"), ("I am", "I'm"), ("do not", "don't"),
    ("My name is", "My name's"),
)  # fmt: skip
MANNERS = (
    "Please {}", "{} please", "Can you tell me: {}", "Tell me, {}", "I would like to know: {}",
    "One more thing: {}",
)  # fmt: skip
FILLERS = ("Um {}", "Well {}", "Ah {}", "Listen, {}", "Now then {}", "Right {}", "And {}")
OUTSIDE = (
    "Who {did} the {thing}?",
    "What is the best {thing}?",
    "How many {thing}s are there in {place}?",
    "When does the {thing} begin?",
    "Why do people like a {thing}?",
    "How do I make a {thing}?",
    "Can you buy a {thing} for me?",
    "How big is {place}?",
    "Who lives in {place}?",
    "What do they speak in {place}?",
    "How do I get to {place}?",
    "Which {thing} do you like best?",
    "What did I do yesterday?",
    "How cold will it be tonight?",
    "What is fifty times three?",
    "Who was the first man on the moon?",
)
DID = ("wrote", "made", "found", "sold", "painted", "built")
THINGS = (
    "poem",
    "film",
    "game",
    "radio",
    "phone",
    "plane",
    "engine",
    "soup",
    "shirt",
    "team",
    "war",
    "wheel",
)
ABROAD = ("Greece", "Egypt", "India", "Mexico", "Norway", "Sweden", "Chile", "Cuba", "Kenya", "Texas")
DIGITS, MANY_DIGITS = 0.25, 0.35
PHRASED = 0.65
SHARES = {"as it is": 0.45, "other": 0.3, "short": 0.1, "manners": 0.08, "filler": 0.07}


@lru_cache(maxsize=4096)
def ways(question: str) -> tuple[str, ...]:
    """Other wordings of a question that say the same: the same for the same, none where none is known."""
    found = []
    for pattern, forms in PATTERNS:
        if match := re.fullmatch(pattern, question):
            found += [_capital(form.format(*match.groups())) for form in forms]
    for long, short in SHORT_FORMS:
        found += [text.replace(long, short) for text in (question, *found) if long in text]
    return tuple(text for text in dict.fromkeys(found) if text != question and not _is_examined(text))


def reworded(rng: random.Random, question: str) -> str:
    """The question as it is, or in another wording of the same split."""
    kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    text = question
    if kind == "other" and ways(question):
        text = rng.choice(ways(question))
    elif kind == "short":
        for long, short in SHORT_FORMS:
            text = text.replace(long, short)
    elif kind == "filler" or (kind == "manners" and question.endswith("?")):
        text = _framed(rng.choice(MANNERS if kind == "manners" else FILLERS), question)
    return question if is_held_out(text) != is_held_out(question) or _is_examined(text) else text


def in_digits(rng: random.Random, text: str) -> str:
    """As it may be typed: numbers in digits, now and then signs for "plus" and "minus"."""
    text = re.sub(
        rf"\b{NUMBER}\b", lambda found: str(NUMBERS.index(found[1].lower())), text, flags=re.IGNORECASE
    )
    if rng.random() < 0.4:
        space = rng.choice(("", " "))
        text = re.sub(r"(?<=\d) plus (?=\d)", f"{space}+{space}", text)
        text = re.sub(r"(?<=\d) minus (?=\d)", f"{space}-{space}", text)
    return text


def as_typed(rng: random.Random, question: str) -> str:
    """In some wording, with numbers in digits one time in four, and now and then carelessly."""
    text = reworded(rng, question)
    return typed(rng, in_digits(rng, text) if rng.random() < DIGITS else text)


def as_asked(rng: random.Random, question: str) -> str:
    """Like `as_typed`, but most of the time put together from the many parts of `phrasing`."""
    text = phrased(rng, question) if rng.random() < PHRASED else reworded(rng, question)
    return typed(rng, in_digits(rng, text) if rng.random() < MANY_DIGITS else text)


def said_back(question: str) -> Exchange | None:
    """What is to be said after somebody, from the question alone; None for another question. So there is a
    conversation for anything of the kind that was ever spoken."""
    for form in SAY:
        if match := re.fullmatch(re.escape(form).replace(r"\{\}", "(.+)"), question):
            return Exchange(question, sentence(match[1]), "say")
    return None


def ask_outside(rng: random.Random) -> Exchange:
    """A question about things that the grammar has no word for."""
    form = rng.choice(OUTSIDE)
    question = form.format(did=rng.choice(DID), thing=rng.choice(THINGS), place=rng.choice(ABROAD))
    return Exchange(question, UNKNOWN, "outside", True)


def _is_examined(text: str) -> bool:
    return " ".join(words_of(text)) in _examined()


@cache
def _examined() -> frozenset[str]:
    return frozenset(" ".join(words_of(question.text)) for question in questions() if not question.scene)


def _framed(form: str, question: str) -> str:
    before, _, after = form.partition("{}")
    if before and not question.startswith(("I ", "Antiphon")):
        question = question[0].lower() + question[1:]
    if after:
        question, mark = question[:-1], question[-1]
        after += mark
    return before + question + after


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
