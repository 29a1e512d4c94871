"""Hearing goes on alone in the wider world, from the weights of "mixed": what is typed, seen and answered
stays as it is.

Units that lie beside each other sound alike, and another voice often has the neighbour. So some of the units
that are heard are moved by one step, more in one recording than in another.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from antiphon_tiny.omni.parts import PARTS, load_parts, train_only
from antiphon_tiny.omni.spoken import POOL, SpokenRow, Utterance, of_like_length
from antiphon_tiny.omni.together_training import Together
from antiphon_tiny.omni.wider_speech import WiderSpeech
from antiphon_tiny.omni.wider_tests import WiderTests
from antiphon_tiny.omni.wider_training import LONG_EVERY, LONG_ROWS, NUM_TESTED, WiderListening
from antiphon_tiny.speech.unit_encoder import LEVELS
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training

__all__ = ["moved", "train_wider_hearing"]

NUM_STEPS = 9300
PEAK = 1.5e-3
ROWS = 28
UNANSWERED = 0.8
SAID_ROWS, SAID_EVERY = 10, 3
"""The top layers build on the bottom ones, which change."""
SLOW_SPEAKING = 0.9
MOVED = 0.12
"""Of a recording's units, at most"""


def train_wider_hearing(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Together(run, WiderListening(run))
    listening, speaking = model.tasks
    speaking.learns_to_hear = False
    load_parts(model.omni, run.folder("mixed") / "state.pt", PARTS)
    model.requires_grad_(False)
    train_only(model.omni, ("hearing", "speaking"))
    speech = WiderSpeech(run.work, listening.layout)
    tests = WiderTests(listening, speaking, speech, NUM_TESTED)
    slow = dict.fromkeys(PARTS["speaking"], SLOW_SPEAKING)
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK)
    training = Training(model, run.folder("hearing-wider"), schedule, seed=run.seed, slow=slow)

    def drawn(step: int, rng: random.Random) -> list[SpokenRow]:
        if step % LONG_EVERY:
            return speaking.draw(speech, rng, ROWS, unanswered=UNANSWERED)
        closing = listening.layout.closing
        return [SpokenRow([speech.draw_long(rng), closing, rng.choice(speech.own)]) for _ in range(LONG_ROWS)]

    def losses(step: int, rng: random.Random) -> Losses:
        rows = drawn(step, rng)
        for row in rows:
            *before, last = row.pieces
            row.pieces = [*(moved(p, rng) if isinstance(p, Utterance) else p for p in before), last]
        found = speaking.losses(rows)
        if step % SAID_EVERY == 0:
            said = [speech.draw_said(rng) for _ in range(POOL * SAID_ROWS)]
            rows = speaking.draw_spoken(said, speech.heard, rng)
            found |= speaking.speak_losses(of_like_length(rng, rows, len), rng)
        return found

    training.run(losses, lambda: tests.misheard() | tests.guessed())


def moved(said: Utterance, rng: random.Random) -> Utterance:
    """With some of its units a step away on the grid, in one direction."""
    share = rng.uniform(0, MOVED)
    return replace(said, units=[_beside(u, rng) if rng.random() < share else u for u in said.units])


def _beside(unit: int, rng: random.Random) -> int:
    which, place = rng.randrange(len(LEVELS)), 1
    for levels in LEVELS[which + 1 :]:
        place *= levels
    digit = unit // place % LEVELS[which]
    other = min(max(digit + rng.choice((-1, 1)), 0), LEVELS[which] - 1)
    return unit + (other - digit) * place
