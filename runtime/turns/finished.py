"""Whether what somebody has said so far reads as finished, by the words of general English.

A transcript that is made while its speaker pauses often ends in a full stop or a question mark that only
the pause has put there, so those count for nothing. Instead, this asks which words cannot be the last, and
whether a clause has the parts that it needs.
"""

from __future__ import annotations

import re
from enum import Enum

__all__ = ["Completeness", "completeness"]


class Completeness(Enum):
    """How a transcript reads."""

    UNFINISHED = "unfinished"
    """More has to follow: "How many shapes can you", "I would like to"."""
    OPEN = "open"
    """It may be whole, and may go on: "Twelve", "Is the red triangle"; or too little is known."""
    FINISHED = "finished"
    """Nothing is missing."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
POSSESSIVES = _words("my your our their its his")
DETERMINERS = ARTICLES | POSSESSIVES | _words("this that these those her some any each every")
SUBJECTS = _words("i he she we they")
PRONOUNS = SUBJECTS | _words("you it this that these those there")
OBJECTS = _words("me us him her them you it")
WH = _words("what which who whom whose how when where why")
ASKED_FOR = _words("what which who whom whose many much")
"""With one of these, a verb has its object before it: "What do you want?"."""
BE = _words("is are was were am isn't aren't wasn't weren't")
HAVE = _words("have has had haven't hasn't hadn't")
DO = _words("do does did don't doesn't didn't")
MODALS = _words("can could will would shall should may might must can't couldn't won't wouldn't shouldn't")
AUXILIARIES = BE | HAVE | DO | MODALS | _words("be been being")
CONTRACTIONS = _words(
    "i'm i'd i'll i've you're you'd you'll you've he's she's it's we're we'd we'll we've they're they'd "
    "they'll they've that's there's here's what's who's where's how's let's"
)
"""Of a subject or a question word and a verb."""
CONJUNCTIONS = _words(
    "and or but nor because if while although though unless whether than as until plus minus"
)
SUBORDINATING = _words("if when because although though while unless until since once")
PREPOSITIONS = _words(
    "of to at from with by for into onto between among about against during without within upon toward "
    "towards behind beside beneath under above below near in on through across like"
)
PARTICLES = _words("up down off out over away back around along")
"""Also the last words of commands and of statements: "sit down", "I am out"."""
INTENSIFIERS = _words("very quite rather such every many several both either neither another other whose")
FILLERS = _words("um uh er erm hmm mm well so please")
DANGLING = ARTICLES | POSSESSIVES | CONJUNCTIONS | INTENSIFIERS | CONTRACTIONS | FILLERS
INTERJECTIONS = _words(
    "yes no yeah yep nope okay ok sure right correct exactly hello hi hey goodbye bye thanks thank you stop "
    "sorry never nothing maybe cancel wait again good great morning evening night cheers welcome"
)
COMPARATIVES = _words(
    "bigger smaller larger higher lower taller shorter longer older younger faster slower better worse "
    "nearer closer further heavier lighter darker brighter wider colder warmer hotter cheaper more less"
)
NEEDS_OBJECT = _words(
    "want wants wanted need needs think thinks make makes put puts get gets take takes give gives tell "
    "tells let lets say says mean means use uses find finds bring brings show shows buy keep keeps try "
    "tries"
)
ASKS_FOR = _words("tell show give send bring ask let")
SAYS = _words("say repeat spell write read translate")
VERBS = NEEDS_OBJECT | _words(
    "add answer ask asks be become begin believe call calls change check choose close come comes "
    "compare continue cost costs count cut decide describe draw drink drive eat end explain fall feel "
    "fill finish fly follow forget go goes guess happen happened happens hear help hold hope imagine "
    "keep know knows learn leave like likes list listen live lives look looks lose love loves move name "
    "open order pay pick play please point pull push read recommend remember remind repeat ride run "
    "runs search see sees sell send set sing sit sleep sleeps solve speak spell stand start stay stop "
    "suggest talk taste teach thank translate travel turn understand wait wake walk wash watch wear win "
    "wish wonder work works worry write came said saw went knew made took gave got found lost bought "
    "brought thought told left felt kept began"
)
SPOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*")
SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s+(?=[A-Z])")
TRAILING_OFF = re.compile(r"(?:\.\.|…|[,;:–—-])\s*$")
MIN_QUOTED_WORDS = 3


def completeness(text: str) -> Completeness:
    """How the last sentence of a transcript reads.

    Sentences begin with a capital letter after a full stop, unless the words before cannot end one.
    """
    first, *others = SENTENCE_END.split(text.strip().replace("’", "'"))
    sentence = first
    for other in others:
        is_broken = _sentence(sentence) is Completeness.UNFINISHED
        sentence = f"{sentence} {other}" if is_broken else other
    return _sentence(sentence)


def _sentence(sentence: str) -> Completeness:
    words = SPOKEN.findall(sentence.lower())
    if TRAILING_OFF.search(sentence):
        return Completeness.UNFINISHED
    if words and words[0] in FILLERS and len(words) > 1:
        words = words[1:]
    if not words:
        return Completeness.OPEN
    if all(word in INTERJECTIONS for word in words) and len(words) <= 3:
        return Completeness.FINISHED
    if len(words) == 1:
        return Completeness.UNFINISHED if words[0] in DANGLING | SUBJECTS | AUXILIARIES else Completeness.OPEN
    return _ending(words) or _clause(words)


def _ending(words: list[str]) -> Completeness | None:
    """What the last words alone tell, where they tell anything."""
    last, before = words[-1], words[-2]
    is_question = words[0] in WH
    embedded = _embedded(words)
    if last in DANGLING | WH or (before, last) == ("would", "like"):
        return Completeness.UNFINISHED
    if last in PREPOSITIONS:
        if before in OBJECTS and last in ("in", "on"):
            return Completeness.FINISHED  # "turn it on"
        is_stranded = (is_question and len(words) > 3) or embedded is not None
        return Completeness.OPEN if is_stranded else Completeness.UNFINISHED
    if last in PARTICLES:
        return Completeness.FINISHED if before in OBJECTS else Completeness.OPEN
    if last in AUXILIARIES:
        if last in ("do", "be", "have") and is_question and set(words[1:-1]) & (MODALS | DO):
            return Completeness.FINISHED  # "What can you do?"
        if embedded is not None and len(words) - embedded > 2:
            return Completeness.FINISHED  # "Tell me where the cat is."
        is_short_answer = before in PRONOUNS and len(words) <= 4 and not is_question
        return Completeness.OPEN if is_short_answer else Completeness.UNFINISHED
    if last in PRONOUNS:
        if before.endswith("n't") and len(words) > 3:
            return Completeness.FINISHED  # "..., isn't it?"
        if before in BE:
            return Completeness.FINISHED if is_question else Completeness.UNFINISHED
        if before in DO | MODALS | HAVE and (is_question or len(words) == 2):
            return Completeness.UNFINISHED
        if last in SUBJECTS:
            return Completeness.UNFINISHED
    if last in NEEDS_OBJECT and not set(words) & ASKED_FOR:
        return Completeness.UNFINISHED
    if last in OBJECTS and before in ASKS_FOR:
        return Completeness.UNFINISHED  # "Show me"
    return None


def _clause(words: list[str]) -> Completeness:
    """What the clause lacks, if its last word may be the last."""
    first, rest = words[0], words[1:]
    embedded = _embedded(words)
    if embedded is not None and not _has_verb(words[embedded + 1 :]):
        return Completeness.UNFINISHED  # "Tell me what time"
    if first in SAYS:
        return Completeness.FINISHED if len(rest) >= MIN_QUOTED_WORDS else Completeness.OPEN
    if first in WH:
        return _question(words)
    if first in BE:
        return _asks_whether(rest)
    if first in MODALS | DO | HAVE:
        return Completeness.FINISHED if len(words) > 3 else Completeness.OPEN
    if first in SUBORDINATING:
        return Completeness.OPEN
    if len(words) == 2 or not _has_verb(words):
        return Completeness.OPEN
    return Completeness.FINISHED


def _question(words: list[str]) -> Completeness:
    """With a question word in front."""
    if not _has_verb(words[1:]):
        return Completeness.UNFINISHED  # "Which shape"
    compared = [at for at, word in enumerate(words) if word in COMPARATIVES and words[at - 1] in BE]
    if compared and not set(words) & {"or", "than"}:
        # "Which is bigger, the square", to which an alternative belongs
        return Completeness.UNFINISHED if len(words) > compared[0] + 1 else Completeness.OPEN
    return Completeness.FINISHED


def _asks_whether(rest: list[str]) -> Completeness:
    """What follows a form of "be" in front: a subject, and what is said of it."""
    if rest[0] == "there":
        has_place = bool(set(rest) & (PREPOSITIONS | PARTICLES | {"or", "left", "here", "now"}))
        return Completeness.FINISHED if has_place else Completeness.OPEN
    if rest[0] in DETERMINERS and len(rest) > 1 and rest[0] not in PRONOUNS:
        if len(rest) == 2:
            return Completeness.UNFINISHED  # "Is the triangle"
        return Completeness.OPEN if len(rest) == 3 else Completeness.FINISHED  # "Is the red triangle" is open
    return Completeness.FINISHED if len(rest) > 1 else Completeness.UNFINISHED


def _embedded(words: list[str]) -> int | None:
    """Where the last question word stands that begins a clause within the sentence."""
    for at in range(len(words) - 1, 0, -1):
        if words[at] in WH and words[0] not in WH:
            return at
    return None


def _has_verb(words: list[str]) -> bool:
    return any(
        word in VERBS
        or word in AUXILIARIES
        or word in CONTRACTIONS
        or (len(word) > 4 and word.endswith(("ed", "ing")))
        for word in words
    )
