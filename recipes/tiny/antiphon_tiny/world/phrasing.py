"""Many wordings for what the grammar asks, put together from parts: `phrasing.txt`, frames, and fillers.

    phrased(rng, "What is the capital of France?")    # "I'd like to know France's capital city please."
    intent_of("Tell me the capital of France.")       # ("capital", "France")

`wordings` lists other ways for some questions; this has parts, so that hardly any wording comes
twice, and what is learned is what the words of a question ask, not its form. What is examined from outside
is left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from antiphon_tiny.outside.questions import questions
from antiphon_tiny.world.knowing import UNKNOWN_PLACES
from antiphon_tiny.world.looking import DESCRIBE, FOLLOW_UPS
from antiphon_tiny.world.samples import AGAIN, FRAMES
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.talking import TALK
from antiphon_tiny.world.words import COLOURS, NAMES, NUMBERS, PLACES, article, plural, words_of

__all__ = ["Intent", "drawn", "everyday", "framed", "intent_of", "is_examined", "phrased"]

Intent = tuple[str, ...]
"""What is asked for, and about what, however it is worded."""

NUMBER = "(" + "|".join(sorted(NUMBERS, key=len, reverse=True)) + ")"
COLOUR = "(" + "|".join(COLOURS) + ")"
SIDE = "(left of|right of|above|below)"
A_SUM = "(?:What is|How much is|What makes|Tell me what|Can you say what)"
INTENTS: tuple[tuple[str, str], ...] = (
    ("plus", rf"{A_SUM} {NUMBER} plus {NUMBER}(?: is)?[.?]"),
    ("minus", rf"{A_SUM} {NUMBER} minus {NUMBER}(?: is)?[.?]"),
    ("number after", rf"(?:What comes|Which number comes|Which number is) after {NUMBER}\?"),
    ("number before", rf"(?:What comes|Which number comes|Which number is) before {NUMBER}\?"),
    ("count up", rf"(?:Count to|Can you count to|Please count to|Count up to) {NUMBER}[.?]"),
    ("again", "|".join(map(re.escape, AGAIN))),
    ("where is it", re.escape(FOLLOW_UPS[0])),
    ("what colour is it", re.escape(FOLLOW_UPS[1])),
    ("is it big", re.escape(FOLLOW_UPS[2])),
    ("and plus", rf"And plus {NUMBER}\?"),
    ("and minus", rf"And minus {NUMBER}\?"),
    ("and one", r"And the (.+)\?"),
    ("and many", r"And (.+)\?"),
    (
        "sound",
        r"(?:What|How) does a (\w+) (?:say|speak)\?|What sound does a (\w+) make\?|What says a (\w+)\?",
    ),
    (
        "legs",
        r"(?:How many legs (?:has|does|do you see on)|Tell me how many legs) an? (\w+)(?: have| has)?[.?]",
    ),
    (
        "home",
        r"Where does an? (\w+) live\?|Tell me where an? (\w+) lives\.|Where is the home of an? (\w+)\?",
    ),
    ("capital", r"(?:What is|Which city is|Tell me|What city is) the capital of (\w+)[.?]"),
    ("opposite", r"(?:What is|Tell me|Which word is) the opposite of (\w+)[.?]"),
    ("day after", r"(?:What day comes|Which day comes|Which day is) after (\w+)\?"),
    ("day before", r"Which day comes before (\w+)\?"),
    (
        "how many in",
        r"How many (days|months|fingers|sides) (?:has a|does a|are in a) (\w+)(?: have)?\?",
    ),
    ("what do they make", r"(?:What do|Tell me what) (bees|bakers|cows) (make|give)[.?]"),
    ("colour", r"(?:(?:What|Which) colour is|Tell me the colour of|What colour has) (.+?)[.?]"),
    (
        "count",
        r"How many (.+?) (?:are there|do you see|can you see|are in the picture)\?|Count the (.+?)\.",
    ),
    ("is there", r"Is there (an? .+?)(?: in the picture)?\?"),
    ("do you see", r"Do you see (an? .+?)\?"),
    ("can you see", r"Can you see (an? .+?)\?"),
    ("which is coloured", rf"(?:What shape is|Which shape is|What is) {COLOUR}\?"),
    ("where", r"(?:Where is the|Where do you see the|Tell me where the) (.+?)(?: is)?[.?]"),
    (
        "what is at",
        rf"(?:What is|What do you see|Which shape is) ({'|'.join(sorted(PLACES.values(), key=len)[::-1])})\?",
    ),
    ("relation", rf"Is the (.+) {SIDE} the (.+)\?"),
    ("beside", rf"(?:What is|Which shape is|What do you see) {SIDE} the (.+)\?"),
    ("further", r"(?:Which|What) is (further left|further right|higher|lower) the (.+) or the (.+)\?"),
    ("size", r"Is the (.+) (?:big or small|small or big)\?|How big is the (.+)\?"),
    ("describe", "|".join(map(re.escape, DESCRIBE))),
    ("more", r"Are there more (.+) than (.+)\?"),
    ("is it coloured", rf"Is the (\w+) {COLOUR}\?"),
    ("say", r"(?:Say after me|Please say|Say|Repeat after me) (.+)\."),
    ("my name is", r"(?:My name is|I am|Hello I am|You can call me|Call me) ([A-Z]\w+)\."),
    ("what is my name", r"What is my name\?|Who am I\?|Do you know my name\?|Tell me my name\."),
)
"""What is asked, and the questions of the grammar that ask it: a whole question, and in groups what about."""
NOUN_FRAMES = (
    "[What|What|Which] is {}[ please| then| now|]?",
    "What's {}[ please|]?",
    "[Please |][tell me|give me|say|name|find|let me know] {}[ please| now|].",
    "[Can|Could|Would|Will] you [please |kindly |][tell me|give me|say|name|find] {}[ please|]?",
    "[I would like|I'd like|I want|I need|I wish] to [know|hear|learn] {}[ please|].",
    "[Do|Would] you [know|happen to know|remember] {}?",
    "What would {} be?",
    "[I am looking for|I need|I ask for|I'm asking for] {}.",
    "[And |]{}[ please|]?",
)
CLAUSE_FRAMES = (
    "[Please |][tell me|say|let me know|explain] {}[ please| now|].",
    "[Can|Could|Would|Will] you [please |kindly |][tell me|say|let me know|find out] {}[ please|]?",
    "[I would like|I'd like|I want|I need|I wish] to [know|hear|learn] {}[ please|].",
    "[Do|Would] you [know|happen to know] {}?",
    "[I wonder|I am wondering|I ask myself|I'm curious|I forgot] {}.",
    "[Have you|Do you have] [any |an |]idea {}?",
    "[Are you able to|Can you] [tell|say] {}?",
)
BEFORE = (
    "[Um|Er|Well|Ah|Oh|Hm|So|OK|OK so|Okay|Right|Now|Now then|And|Alright|Listen|Look|Sorry|Excuse me],",
    "[Please|Antiphon|Hey|Hey Antiphon|Hi|Hello|Hello Antiphon|Hi there|OK Antiphon],",
    "[Next question|Another question|One more question|Quick question|A question|One question]:",
    "[By the way|Just curious|One more thing|Tell me this|Let me ask|First|Also|Then]:",
)
BEHIND = (
    "[please|then|Antiphon|now|for me|if you can|if you know|again|do you know|thank you|thanks|my friend]"
)
SHARE_BEFORE, SHARE_BEHIND, SHARE_SHORT = 0.14, 0.08, 0.35
SHARES = {"direct": 0.5, "noun": 0.25, "clause": 0.25}
SHORT_FORMS = (
    (r"\b(What|Where|Who|How|That|what|where|who|how|that) is\b", r"\1's"), (r"\bI am\b", "I'm"),
    (r"\b(do|does|did|is|are) not\b", r"\1n't"), (r"\bI would\b", "I'd"), (r"\bI have\b", "I've"),
    (r"\b([Mm]y name) is\b", r"\1's"), (r"\byou are\b", "you're"), (r"\b([Ii]t) is\b", r"\1's"),
)  # fmt: skip
WITHOUT_MARKS = frozenset({"say"})
"""What is said after somebody is taken word by word: nothing may be put behind it."""
SIDES = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than", "further up than"),
    "below": ("below", "under", "beneath", "underneath", "lower than"),
}
WORDS = {
    "further left": ("further left", "farther left", "more to the left", "further to the left"),
    "further right": ("further right", "farther right", "more to the right", "further to the right"),
    "higher": ("higher", "higher up", "further up", "nearer the top"),
    "lower": ("lower", "lower down", "further down", "nearer the bottom"),
}
PEOPLE = (
    "Tom",
    "Anna",
    "Lucy",
    "Ben",
    "Mary",
    "Sam",
    "she",
    "he",
    "my brother",
    "my mother",
    "a girl",
    "a boy",
)
PROPER_NAMES = (
    *NAMES, "France", "Italy", "Spain", "Germany", "England", "Japan",
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
CHOICE = re.compile(r"\[([^\[\]]*)\]")
FRAMED = re.compile(rf"(?:{'|'.join(FRAMES)}) (\w)")
PROPER = re.compile(rf"(?:I|Antiphon|{'|'.join((*PROPER_NAMES, *UNKNOWN_PLACES))})\b")
NUM_TRIES = 12


def intent_of(question: str) -> Intent | None:
    """What a question of the grammar asks; None for what has no other wordings here."""
    found = _intent_of(question)
    if found is None and (framed := FRAMED.match(question)):
        found = _intent_of(framed[1].upper() + question[framed.end() :])
    return found


def phrased(rng: random.Random, question: str, *, held_out: bool = False) -> str:
    """The question in a wording that is held out or is not; as it is, if there is none."""
    intent = intent_of(question)
    if intent is None:
        return question
    for _ in range(NUM_TRIES):
        text = _worded(rng, intent)
        if is_held_out(text) == held_out and not is_examined(text):
            return text
    return question


def drawn(rng: random.Random, form: str) -> str:
    """With one of what stands in each pair of brackets."""
    while found := CHOICE.search(form):
        form = form[: found.start()] + rng.choice(found[1].split("|")) + form[found.end() :]
    return form


def is_examined(text: str) -> bool:
    """Whether the examination from outside asks this."""
    return " ".join(words_of(text)) in _examined()


@cache
def everyday() -> dict[str, tuple[str, ...]]:
    """The words of `everyday.txt`, by kind."""
    lines = (Path(__file__).parent / "everyday.txt").read_text().splitlines()
    parted = (line.partition(": ") for line in lines)
    return {kind: tuple(word.replace("_", " ") for word in words.split()) for kind, _, words in parted}


@lru_cache(maxsize=8192)
def _intent_of(question: str) -> Intent | None:
    for name, pattern in INTENTS:
        if match := re.fullmatch(pattern, question):
            return (name, *(group for group in match.groups() if group is not None))
    for forms, _ in TALK:
        if question in forms:
            return (f"talk {forms[0]}",)
    return None


def _worded(rng: random.Random, intent: Intent) -> str:
    name, *about = intent
    forms = _forms()[name]
    kinds = [kind for kind in SHARES if forms.get(kind)]
    kind = rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
    text = rng.choice(forms[kind])
    if kind != "direct":
        text = rng.choice(NOUN_FRAMES if kind == "noun" else CLAUSE_FRAMES).replace("{}", text)
    text = drawn(rng, text).format(*about, **_slots(rng, name, about))
    text = re.sub(r" ([,?.:']|$)", r"\1", " ".join(text.split()))
    text = _counted(text)
    if name not in WITHOUT_MARKS:
        text = framed(rng, text)
        if rng.random() < SHARE_SHORT:
            for long, short in SHORT_FORMS:
                text = re.sub(long, short, text)
    return text[0].upper() + text[1:]


def _slots(rng: random.Random, name: str, about: list[str]) -> Mapping[str, str]:
    if name in ("plus", "minus"):
        who, other = rng.sample(PEOPLE, 2)
        return {"things": rng.choice(everyday()["things"]), "who": who, "other": other}
    if name in ("sound", "legs", "home"):
        return {"a": article(about[0]), "many": about[0] if about[0] == "fish" else about[0] + "s"}
    if name in ("is there", "do you see", "can you see"):
        *before, noun = about[0].split()[1:]
        return {"a": about[0], "many": " ".join([*before, plural(noun)])}
    if name in ("relation", "beside"):
        return {"side": rng.choice(SIDES[about[1 if name == "relation" else 0]])}
    if name == "further":
        return {"word": rng.choice(WORDS[about[0]])}
    if name == "what is at":
        return {"corner": _corner(about[0])}
    return {"x": about[0]} if name == "say" else {}


def _corner(place: str) -> str:
    where = place.removeprefix("at the ").removeprefix("on the ").removeprefix("in the ")
    if " " in where:
        return f"in the {where} corner"
    return {"middle": "in the centre", "top": "in the upper middle", "bottom": "in the lower middle"}.get(
        where, f"on the {where} side"
    )


def _counted(text: str) -> str:
    """One apple, where it has one apples."""

    def one(found: re.Match[str]) -> str:
        return f"{found[1]} " + {"fish": "fish", "boxes": "box"}.get(found[2], found[2][:-1])

    return re.sub(rf"\b([Oo]ne) ({'|'.join(everyday()['things'])})\b", one, text)


def framed(rng: random.Random, text: str) -> str:
    """Now and then with something before or behind it that asks nothing."""
    if rng.random() < SHARE_BEHIND:
        text = f"{text[:-1]}{rng.choice((' ', ', '))}{drawn(rng, BEHIND)}{text[-1]}"
    if rng.random() < SHARE_BEFORE:
        if not PROPER.match(text):
            text = text[0].lower() + text[1:]
        text = f"{drawn(rng, rng.choice(BEFORE))} {text}"
        if rng.random() < 0.5:
            text = text.replace(",", "", 1)
    return text


@cache
def _forms() -> dict[str, dict[str, list[str]]]:
    """By what is asked: questions, and nouns and clauses to be asked for in a frame."""
    found: dict[str, dict[str, list[str]]] = {}
    forms: dict[str, list[str]] = {}
    for line in (Path(__file__).parent / "phrasing.txt").read_text().splitlines():
        if line and line[0] == "[" and line[-1] == "]" and line.count("[") == 1:
            forms = found[line[1:-1]] = {}
        elif line and line[0] != "#":
            kind = {"=": "noun", "?": "clause"}.get(line[0], "direct")
            forms.setdefault(kind, []).append(line if kind == "direct" else line[2:])
    return found


@cache
def _examined() -> frozenset[str]:
    return frozenset(" ".join(words_of(question.text)) for question in questions())
