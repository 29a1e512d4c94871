"""How the answers of vision benchmarks are compared with the right ones, each in its benchmark's way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from antiphon.evaluation.normalising import english, has_normaliser, plain

__all__ = ["RULES", "contains_answer"]

Counts = dict[str, tuple[float, float]]
"""By figure: what counts for it, and of how much"""

LETTER = re.compile(r"^\W*([A-Ha-h])(?:\W|$)")
NUMERAL = re.compile(r"(?:\d+(?:\.\d+)?|one)")
"""As Whisper's normaliser writes it"""
CLAUSE = re.compile(r"[.,;:!?\n]+(?!\d)")
NUM_OTHERS = 3
"""People who must agree with an answer for it to be right"""


def exact(reply: str, references: Sequence[str]) -> Counts:
    """Any right answer, whole, after lower case, punctuation and articles (GQA)."""
    return {"accuracy": (float(plain(reply) in {plain(each) for each in references}), 1.0)}


def words(reply: str, references: Sequence[str]) -> Counts:
    """Any right answer stands in the reply, as whole words, normalised."""
    said = f" {_normalised(reply)} "
    wanted = [_normalised(each) for each in references]
    return {"accuracy": (float(any(each and f" {each} " in said for each in wanted)), 1.0)}


def number(reply: str, references: Sequence[str]) -> Counts:
    """The last number of the reply, in digits or words, is a right one."""
    said = _last_number(reply)
    right = {_last_number(each) for each in references}
    return {"accuracy": (float(said != "" and said in right), 1.0)}


def people(reply: str, references: Sequence[str]) -> Counts:
    """Answers of ten people: right if three others gave it, averaged over leaving each of them out (VQAv2,
    TextVQA, VizWiz)."""
    said, given = plain(reply), [plain(each) for each in references]
    shares = []
    for left_out in range(len(given)):
        others = given[:left_out] + given[left_out + 1 :]
        shares.append(min(1.0, others.count(said) / NUM_OTHERS))
    return {"accuracy": (sum(shares) / len(shares), 1.0)}


def choice(reply: str, references: Sequence[str]) -> Counts:
    """The letter that the reply begins with; right ones may be numbers from 0 (ScienceQA, SEED-Bench,
    MMBench)."""
    found = LETTER.match(reply)
    letter = found[1].upper() if found else ""
    right = {chr(ord("A") + int(each)) if each.isdigit() else each.strip().upper()[:1] for each in references}
    return {"accuracy": (float(letter in right), 1.0)}


def yes_no(reply: str, references: Sequence[str]) -> Counts:
    """Yes, unless the first sentence holds "no" or "not" (POPE)."""
    words = reply.split(".", maxsplit=1)[0].replace(",", "").lower().split()
    said = not ({"no", "not"} & set(words))
    right = references[0].strip().lower() == "yes"
    hit = float(said and right)
    return {
        "accuracy": (float(said == right), 1.0),
        "precision": (hit, float(said)),
        "recall": (hit, float(right)),
        "f1": (2 * hit, float(said) + float(right)),
        "yes": (float(said), 1.0),
    }


def mme(reply: str, references: Sequence[str]) -> Counts:
    """Yes or no at its beginning (MME). `scoring` adds what both questions about a picture make together."""
    said = plain(reply).split()[:1]
    return {"accuracy": (float(said == plain(references[0]).split()[:1]), 1.0)}


RULES: Mapping[str, Callable[[str, Sequence[str]], Counts]] = {
    "exact": exact,
    "words": words,
    "number": number,
    "people": people,
    "choice": choice,
    "yes-no": yes_no,
    "mme": mme,
}


def _normalised(text: str) -> str:
    """By Whisper's normaliser where it is installed, which signs of numbers are taken from."""
    normalise = english() if has_normaliser() else plain
    return " ".join(re.sub(r"[^\w\s.]", " ", normalise(text)).split())


def _last_number(text: str) -> str:
    """Words of a clause that follow each other make one number. Empty: there is none."""
    for clause in reversed(CLAUSE.split(text)):
        run: list[str] = []
        for word in reversed(re.findall(r"[\w.]+", clause)):
            if word.lower() not in ("o", "oh") and NUMERAL.fullmatch(_normalised(word)):
                run.insert(0, word)
            elif run:
                break
        if run:
            return _normalised(" ".join(run))
    return ""


def contains_answer(reply: str, references: Sequence[str], normalise: Callable[[str], str]) -> bool:
    """Whether any right answer stands in the reply, as it is or normalised, as the released code scores
    spoken questions: also within a longer word."""
    said = (reply, reply.lower(), normalise(reply.lower()))
    for each in references:
        forms = {each, each.lower(), normalise(each.lower())} - {""}
        if any(form in text for form in forms for text in said):
            return True
    return False
