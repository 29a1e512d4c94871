"""Conversations of the world, drawn from a seed, for training or held out.

    samples = draw_samples(1000, "train", seed=0)
    sentences = draw_sentences(5000, "train", seed=0)

`SPLITS` are told apart by digests (`world.split`): no question, no answer that is put together from parts and
no combination of shapes of one split is in the other. Of a held-out conversation the last question is held
out, and so is the picture; what was said before is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from antiphon_tiny.world.exchange import Exchange, Sample
from antiphon_tiny.world.knowing import ask_fact, ask_unknown
from antiphon_tiny.world.looking import LOOKS, Look, ask_about_picture, follow_up, no_picture
from antiphon_tiny.world.scene import Scene, draw_scene
from antiphon_tiny.world.split import ONE_IN, is_held_out, scene_is_held_out
from antiphon_tiny.world.talking import ask_name, ask_sum, ask_to_say, chat, count_up, next_number, sum_after

__all__ = ["MAX_TURNS", "Sentence", "Split", "draw_sample", "draw_samples", "draw_sentences", "typed"]

Split = Literal["train", "held_out"]

FRAMES = ("Now", "OK", "Please", "Antiphon", "So")
KEPT_CAPITALS = ("I ", "Antiphon")
NUM_TRIES = 100
MAX_TURNS = 3
AGAIN = ("Say that again.", "What did you say?", "Please repeat that.")

TOPICS: dict[Callable[[random.Random], Exchange], float] = {
    chat: 2.0,
    ask_fact: 2.5,
    ask_sum: 2.5,
    ask_to_say: 3.0,
    ask_unknown: 1.5,
    count_up: 0.3,
    next_number: 0.5,
}


@dataclass(frozen=True)
class Sentence:
    """What somebody says."""

    text: str
    role: Literal["user", "assistant"]
    topic: str
    listed: bool = False
    """From a fixed list, all of which training sees."""


def draw_samples(n: int, split: Split, seed: int, *, pictures: float = 0.55) -> list[Sample]:
    """`n` conversations; the same arguments give the same. pictures: the part of them that have one."""
    rng = random.Random(f"{split} {seed}")
    return [draw_sample(rng, split, pictures=pictures) for _ in range(n)]


def draw_sample(
    rng: random.Random, split: Split, *, pictures: float = 0.55, max_turns: int = MAX_TURNS
) -> Sample:
    """One conversation of the split."""
    if rng.random() < pictures:
        return sample_about(rng, draw_scene_of(rng, split), split, max_turns=max_turns)
    while True:
        turns = _talk(rng, split, _num_turns(rng, max_turns))
        if turns is not None:
            return Sample(tuple(turns))


def draw_scene_of(rng: random.Random, split: Split) -> Scene:
    while True:
        scene = draw_scene(rng)
        if scene_is_held_out(scene.key) == (split == "held_out"):
            return scene


def sample_about(
    rng: random.Random,
    scene: Scene,
    split: Split,
    *,
    max_turns: int = MAX_TURNS,
    looks: Mapping[Look, float] = LOOKS,
) -> Sample:
    """A conversation about this picture. looks: what is asked, and how often."""
    while True:
        turns: list[Exchange] = []
        num_turns = _num_turns(rng, max_turns)
        while len(turns) < num_turns:
            turn = None
            if turns and rng.random() < 0.5:
                turn = follow_up(rng, scene, turns[-1])
            elif turns and rng.random() < 0.1:
                turn = _again(rng, turns[-1])
            if turn is None:
                turn = _framed(rng, ask_about_picture(rng, scene, looks))
            last = len(turns) == num_turns - 1
            if last and split == "held_out" and turn.fixed and rng.random() > 1 / ONE_IN:
                continue  # the others have to be drawn that many times before one is held out
            if not _is_of(turn, split if last else "train"):
                if last and split == "held_out":
                    continue
                break
            turns.append(turn)
        else:
            return Sample(tuple(turns), scene)


def draw_sentences(n: int, split: Split, seed: int) -> list[Sentence]:
    """`n` different sentences, questions and answers, each of the split by its own text.

    Held-out ones are those that nobody says in training; sentences from a fixed list are training's. Fewer
    than `n` if no more can be found.
    """
    rng = random.Random(f"sentences {split} {seed}")
    found: dict[str, Sentence] = {}
    in_vain = 0
    while len(found) < n and in_vain < 50 * NUM_TRIES:
        sample = draw_sample(rng, split, max_turns=2)
        before = len(found)
        for turn in sample.turns:
            said = (
                Sentence(turn.question, "user", turn.topic, turn.fixed),
                Sentence(turn.answer, "assistant", turn.topic, turn.closed),
            )
            for sentence in said:
                if (is_held_out(sentence.text) and not sentence.listed) == (split == "held_out"):
                    found.setdefault(sentence.text, sentence)
        in_vain = 0 if len(found) > before else in_vain + 1
    return list(found.values())[:n]


def typed(rng: random.Random, text: str) -> str:
    """A question as somebody may type it: as it is, or more carelessly."""
    style = rng.random()
    if style < 0.6:
        return text
    if style < 0.75:
        return text[:-1]
    if style < 0.9:
        text = text.lower()
    else:
        text = text[:-1].lower()
    return text.replace("colour", "color") if rng.random() < 0.3 else text


# --- conversations without a picture ---------------------------------------------------------------------


def _talk(rng: random.Random, split: Split, num_turns: int) -> list[Exchange] | None:
    turns: list[Exchange] = []
    if num_turns > 1 and rng.random() < 0.25:
        told, asked = ask_name(rng)
        between = [_turn(rng, []) for _ in range(num_turns - 2)]
        turns = [told, *between, _framed(rng, asked)]
    else:
        for _ in range(num_turns):
            turns.append(_turn(rng, turns))
    last = turns.pop()
    if not all(_is_of(turn, "train") for turn in turns):
        return None
    for _ in range(NUM_TRIES):
        rare = split == "train" or not last.fixed or rng.random() < 1 / ONE_IN
        if rare and _is_of(last, split):
            return [*turns, last]
        if last.topic == "name asked":
            return None
        last = _turn(rng, turns)
    return None


def _turn(rng: random.Random, turns: list[Exchange]) -> Exchange:
    if turns and rng.random() < 0.35:
        turn = sum_after(rng, turns[-1])
        if turn is not None:
            return turn
    if turns and rng.random() < 0.12:
        return _again(rng, turns[-1])
    if rng.random() < 0.06:
        return _framed(rng, no_picture(rng, draw_scene(rng)))
    ask = rng.choices(tuple(TOPICS), tuple(TOPICS.values()))[0]
    return _framed(rng, ask(rng))


def _again(rng: random.Random, before: Exchange) -> Exchange:
    return replace(before, question=rng.choice(AGAIN), topic="again", fixed=True)


def _framed(rng: random.Random, turn: Exchange) -> Exchange:
    """The question, now and then with a word before it, which makes it a new sentence."""
    if rng.random() < 0.75:
        return turn
    question = turn.question
    if not question.startswith(KEPT_CAPITALS):
        question = question[0].lower() + question[1:]
    return replace(turn, question=f"{rng.choice(FRAMES)} {question}", fixed=False)


def _num_turns(rng: random.Random, max_turns: int) -> int:
    return min(max_turns, rng.choices((1, 2, 3), (0.6, 0.25, 0.15))[0])


def _is_of(turn: Exchange, split: Split) -> bool:
    if split == "held_out":
        # A fixed question is as new as what surrounds it: of those only follow-ups.
        return is_held_out(turn.question) if not turn.fixed else turn.topic in ("follow-up", "again")
    asked = turn.fixed or not is_held_out(turn.question)
    return asked and (turn.closed or not is_held_out(turn.answer))
