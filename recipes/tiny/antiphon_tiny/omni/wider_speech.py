"""What the stage "wider" hears and says, and spoken conversations that are made of it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any
from zlib import crc32

from antiphon_tiny.omni.conversations import Layout
from antiphon_tiny.omni.listening_training import SpokenSample
from antiphon_tiny.omni.spoken import POOL, Utterance, frames_needed, of_like_length
from antiphon_tiny.world.exchange import Exchange, Sample
from antiphon_tiny.world.looking import NO_PICTURE
from antiphon_tiny.world.phrasing import Intent, intent_of
from antiphon_tiny.world.samples import Split, draw_scene_of, sample_about
from antiphon_tiny.world.words import NUMBERS, number, sentence

__all__ = ["PLAIN", "WiderSpeech"]

PLAIN, PLAIN_TIMES = "plain_", 2
"""How the names of files begin that have what was said in good surroundings, and how often its rows count."""
TESTED = 40
"""One in so many texts is kept for tests."""
NUM_TRIES = 200
LONG_UNITS = (200, 900)
JOINED = 0.5
"""The part of the long recordings that are put together from the units of single ones."""
ANSWERS = 0.6
"""The part of what is said that are answers."""
KINDS = {"picture": 0.42, "name": 0.14, "sum after": 0.06, "single": 0.38}
NAMES_APART = 0.35
"""How often something else is said between a name and the question for it."""
AT_ONCE = 0.15
"""How often a name is told and asked for in one turn."""
NUM_BEFORE = {0: 0.8, 1: 0.1, 2: 0.06, 3: 0.04}
"""How often there are so many other turns before a question."""
TOLD_ALONE = 0.15
IN_VAIN = 0.03
"""How often a question about a picture comes without one."""
ANSWERED = ("name", "name asked", "picture", "follow", "sum after", "again")
"""Topics whose answers rest on more than the question."""
NUMBER_ENDS = tuple(f" is {name}." for name in NUMBERS)


class _Asked:
    """Spoken questions by what they ask."""

    def __init__(self, rows: list[tuple[dict[str, Any], Utterance]], layout: Layout) -> None:
        self._layout = layout
        self.single: list[tuple[Exchange, Utterance]] = []
        self.sums: list[tuple[Exchange, Utterance]] = []
        self.told: list[tuple[Exchange, Utterance]] = []
        self.name_asked: list[Utterance] = []
        self.looking: list[Utterance] = []
        self.by_intent: dict[Intent, list[Utterance]] = defaultdict(list)
        for row, said in rows:
            if "asks" not in row:
                continue
            turn = Exchange(row["asks"], row["answer"] or "", row["topic"])
            intent = intent_of(turn.question)
            if intent is not None:
                self.by_intent[intent].append(said)
            if turn.topic == "name":
                self.told.append((turn, said))
            elif turn.topic == "name asked":
                self.name_asked.append(said)
            elif turn.topic == "picture":
                self.looking.append(said)
            elif turn.topic not in ANSWERED:
                self.single.append((turn, said))
                if (
                    intent is not None
                    and intent[0] in ("plus", "minus")
                    and turn.answer.endswith(NUMBER_ENDS)
                ):
                    self.sums.append((turn, said))

    def draw(self, rng: random.Random, split: Split) -> SpokenSample | None:
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        if kind == "picture":
            return self._about_picture(rng, split)
        if kind == "name" and self.told and self.name_asked:
            return self._name(rng)
        if kind == "sum after" and self.sums:
            return self._sum_after(rng)
        if self.looking and rng.random() < IN_VAIN:
            return _sample([(Exchange("", NO_PICTURE, "no picture"), rng.choice(self.looking))])
        if not self.single:
            return None
        [num_before] = rng.choices(tuple(NUM_BEFORE), tuple(NUM_BEFORE.values()))
        return _sample([rng.choice(self.single) for _ in range(num_before + 1)])

    def _about_picture(self, rng: random.Random, split: Split) -> SpokenSample | None:
        for _ in range(NUM_TRIES):
            sample = sample_about(rng, draw_scene_of(rng, split), "train", max_turns=2)
            intents = [intent_of(turn.question) for turn in sample.turns]
            found = [self.by_intent.get(intent) if intent else None for intent in intents]
            spoken = [rng.choice(each) for each in found if each]
            if len(spoken) == len(found):
                return SpokenSample(sample, spoken)
        return None

    def _name(self, rng: random.Random) -> SpokenSample:
        told, said = rng.choice(self.told)
        [*_, name] = told.answer.rstrip(".").split()
        asked, question = Exchange("", f"Your name is {name}.", "name asked"), rng.choice(self.name_asked)
        if rng.random() < AT_ONCE:
            return _sample([(asked, _joined([said, question], self._layout))])
        between = [rng.choice(self.single)] if self.single and rng.random() < NAMES_APART else []
        if rng.random() < TOLD_ALONE:
            return _sample([(told, said)])
        return _sample([(told, said), *between, (asked, question)])

    def _sum_after(self, rng: random.Random) -> SpokenSample | None:
        turn, said = rng.choice(self.sums)
        before = NUMBERS.index(turn.answer.rstrip(".").split()[-1])
        for _ in range(NUM_TRIES):
            operation, step = rng.choice(("plus", "minus")), rng.randint(0, 9)
            result = before + step if operation == "plus" else before - step
            spoken = self.by_intent.get((f"and {operation}", number(step)))
            if 0 <= result <= 20 and spoken:
                answer = sentence(f"{number(before)} {operation} {number(step)} is {number(result)}")
                return _sample([(turn, said), (Exchange("", answer, "sum after"), rng.choice(spoken))])
        return None


def _joined(parts: list[Utterance], layout: Layout) -> Utterance:
    """One after the other."""
    text = " ".join(part.text for part in parts)
    return Utterance(text, [unit for part in parts for unit in part.units], layout.encode(text))


def _sample(turns: list[tuple[Exchange, Utterance]]) -> SpokenSample:
    return SpokenSample(Sample(tuple(turn for turn, _ in turns)), [said for _, said in turns])


class WiderSpeech:
    """Everything that was spoken for the stage, as far as it is there."""

    def __init__(self, work: Path, layout: Layout) -> None:
        self._layout = layout
        self.own: list[Utterance] = []
        """What the model is to say."""
        self.heard: list[Utterance] = []
        self._long: list[Utterance] = []
        self._long_tests: list[Utterance] = []
        self._answers: list[Utterance] = []
        self._said_tests: list[Utterance] = []
        rows: dict[bool, list[tuple[dict[str, Any], Utterance]]] = {True: [], False: []}
        for row in _rows(work):
            times = PLAIN_TIMES if row["plain"] else 1
            said = Utterance(row["text"], row["units"], layout.encode(row["text"]))
            if len(said.units) < frames_needed(said):
                continue
            # by its words, so that they are in no other row of the other part
            is_test = crc32(row["text"].encode()) % TESTED == 0
            if row.get("long"):
                (self._long_tests if is_test else self._long).append(said)
                continue
            rows[is_test] += [(row, said)] * (1 if is_test else times)
            if not is_test:
                self.heard += [said] * times
            if "said" in row:
                own = Utterance(said.text, row["said"], said.text_ids)
                if len(own.units) < frames_needed(own):
                    continue
                if is_test:
                    self._said_tests.append(own)
                    continue
                self.own += [own] * times
                if "asks" not in row:
                    self._answers += [own] * times
        self._train, self._test = _Asked(rows[False], layout), _Asked(rows[True], layout)
        self._heard_tests = {
            f"{voice}{', in good surroundings' if plain else ''}": [
                said
                for row, said in rows[True]
                if row["plain"] == plain and ("hibari" in row["voice"]) == (voice == "own voice")
            ]
            for plain in (False, True)
            for voice in ("own voice", "other voices")
        }

    def draw_spoken(self, rng: random.Random, count: int) -> list[SpokenSample]:
        """Conversations to train on, of similar length."""
        drawn: list[SpokenSample] = []
        while len(drawn) < POOL * count:
            one = self._train.draw(rng, "train")
            if one is not None:
                drawn.append(one)
        return of_like_length(rng, drawn, len)

    def draw_said(self, rng: random.Random) -> Utterance:
        return rng.choice(self._answers if rng.random() < ANSWERS else self.own)

    def draw_long(self, rng: random.Random) -> Utterance:
        """A recording of many sentences."""
        if self._long and rng.random() > JOINED:
            return rng.choice(self._long)
        wanted = rng.randint(*LONG_UNITS)
        parts: list[Utterance] = []
        while sum(len(part.units) for part in parts) < wanted:
            parts.append(rng.choice(self.heard))
        return _joined(parts, self._layout)

    def tests(self, count: int) -> dict[str, list[SpokenSample]]:
        """Conversations that training does not hear, about pictures that it does not see."""
        rng = random.Random("tests")
        drawn = [self._test.draw(rng, "held_out") for _ in range(count)]
        found = [one for one in drawn if one is not None]
        return {
            "pictures": [one for one in found if one.sample.scene is not None],
            "talk": [one for one in found if one.sample.scene is None],
        }

    def said_tests(self, count: int) -> list[Utterance]:
        """What the speaking voice says, and training does not."""
        return self._said_tests[:count]

    def heard_tests(self, count: int) -> dict[str, list[Utterance]]:
        """Recordings that training does not hear, of all voices alike."""
        tests = self._heard_tests | {"half a minute": self._long_tests[: count // 6]}
        return {name: said[:: max(1, len(said) // count)][:count] for name, said in tests.items()}


def _rows(work: Path) -> list[dict[str, Any]]:
    """Rows {text, voice, units} of everything that is there; with `asks`, `answer` and `topic` where
    something is asked (`answer` None: the picture tells), `said` where the speaking voice speaks, `long` for
    many sentences, `plain` in good surroundings: those come last."""
    paths = sorted((work / "wider-data").glob("*.jsonl"), key=lambda path: (_is_plain(path), path.name))
    return [
        row
        for path in paths
        for line in path.read_text().splitlines()
        for row in [json.loads(line) | {"plain": _is_plain(path)}]
    ]


def _is_plain(path: Path) -> bool:
    return path.name.startswith(PLAIN)
