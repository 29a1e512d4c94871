"""Questions written by hand, apart from the grammar of training, and how their answers are judged.

    [rule]                   of the questions below it
    {scene}                  the picture that they are about
    question = accepted | also accepted

In a dialogue the user's turns are parted by " / ", and the last answer is judged. Rules:

    number    the last number of the answer is the accepted one
    has       the answer has one of the accepted phrases in it
    exactly   the answer is the accepted phrase, word by word
    unknown   the answer is that it is not known
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from antiphon_tiny.world.words import NUMBERS, words_of

__all__ = ["Question", "Rule", "dialogues", "plain_words", "questions", "said"]

Rule = Literal["number", "has", "exactly", "unknown"]

FOLDER = Path(__file__).parent
COUNTED = 21
"""Numbers up to twenty have names."""
SHORT_FORMS = {"i'm": "i am", "don't": "do not", "aren't": "are not", "i'd": "i would", "color": "colour"}
WITH_IS = ("what", "where", "who", "how", "that", "it", "name", "let")
SIGNS = (("+", " plus "), (" - ", " minus "), ("%", " per cent "))


@dataclass(frozen=True)
class Question:
    turns: tuple[str, ...]
    """What the user says; a single question has one turn."""
    rule: Rule
    accepted: tuple[str, ...] = ()
    scene: str | None = None

    @property
    def text(self) -> str:
        """What is asked at last."""
        return self.turns[-1]

    def is_right(self, answer: str) -> bool:
        words = plain_words(answer)
        if self.rule == "unknown":
            return "do not know" in " ".join(words)
        wanted = [plain_words(phrase) for phrase in self.accepted]
        if self.rule == "exactly":
            return words in wanted
        if self.rule == "number":
            return [word for word in words if word in NUMBERS][-1:] in wanted
        return any(_holds(words, phrase) for phrase in wanted)


def questions() -> tuple[Question, ...]:
    """All single questions."""
    return _read("questions.txt")


def dialogues() -> tuple[Question, ...]:
    return _read("dialogues.txt")


def said(text: str) -> str:
    """A typed question as it is said aloud: without digits and signs."""
    for sign, word in SIGNS:
        text = text.replace(sign, word)
    spelled = re.sub(r"\d+", lambda found: NUMBERS[int(found[0])], text)
    return re.sub(r" +", " ", spelled).strip()


def plain_words(text: str) -> list[str]:
    """Words in one spelling: without digits, marks and short forms."""
    words: list[str] = []
    for word in words_of(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        if word.isdigit() and int(word) < COUNTED:
            words.append(NUMBERS[int(word)])
        elif word.endswith("'s") and word[:-2] in WITH_IS:
            words += [word[:-2], "us" if word == "let's" else "is"]
        else:
            words += SHORT_FORMS.get(word, word).split()
    return words


def _holds(words: list[str], phrase: list[str]) -> bool:
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))


@cache
def _read(name: str) -> tuple[Question, ...]:
    """Raises ValueError for a line that cannot be read."""
    found: list[Question] = []
    rule: Rule | None = None
    scene: str | None = None
    for number, line in enumerate((FOLDER / name).read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line[0] == "[":
            rule, scene = _rule(line), None
        elif line[0] == "{":
            scene = line.strip("{}")
        else:
            asked, _, accepted = line.partition(" = ")
            if rule is None or (rule == "unknown") is bool(accepted):
                raise ValueError(f"{name}, line {number}: expected a rule above, and what is accepted")
            answers = tuple(accepted.split(" | ")) if accepted else ()
            found.append(Question(tuple(asked.split(" / ")), rule, answers, scene))
    return tuple(found)


def _rule(line: str) -> Rule:
    for rule in get_args(Rule):
        if line == f"[{rule}]":
            known: Rule = rule
            return known
    raise ValueError(f"{line}: expected one of {', '.join(get_args(Rule))}")
