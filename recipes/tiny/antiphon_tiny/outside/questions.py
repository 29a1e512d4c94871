"""Questions written by hand, apart from the grammar of training, and how their answers are judged.

    [rule]                   of the questions below it
    {scene}                  the picture that they are about
    question = accepted | also accepted

In a dialogue the user's turns are parted by " / ", and the last answer is judged. Rules, and those of
`antiphon eval` that they are:

    number    number: the last number of the answer is the accepted one
    has       words: the answer has one of the accepted phrases in it
    exactly   exact: the answer is the accepted phrase, word by word
    unknown   words: the answer is that it is not known
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from antiphon_tiny.world.words import NUMBERS

__all__ = ["Question", "Rule", "dialogues", "questions", "said"]

Rule = Literal["number", "has", "exactly", "unknown"]

FOLDER = Path(__file__).parent
SCORED_BY: dict[Rule, str] = {"number": "number", "has": "words", "exactly": "exact", "unknown": "words"}
REFUSAL = "do not know"
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

    @property
    def scored_by(self) -> str:
        """The rule of `antiphon eval`."""
        return SCORED_BY[self.rule]

    @property
    def references(self) -> tuple[str, ...]:
        """Right answers by that rule."""
        return (REFUSAL,) if self.rule == "unknown" else self.accepted

    def is_right(self, answer: str) -> bool:
        from antiphon.evaluation.rules import RULES

        return RULES[self.scored_by](answer, self.references)["accuracy"][0] == 1


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
