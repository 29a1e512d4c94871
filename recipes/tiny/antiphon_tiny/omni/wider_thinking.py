"""The LLM goes on alone in the wider world: it answers what is typed, and what the bottom layers hear now,
about pictures as the tower sees them.

With the tower as it is, plain drawings stay as well seen as they were.
"""

from __future__ import annotations

import random

import torch

from antiphon_tiny.omni.parts import load_parts, train_only
from antiphon_tiny.omni.together_training import Together
from antiphon_tiny.omni.wider_speech import WiderSpeech
from antiphon_tiny.omni.wider_tests import WiderTests
from antiphon_tiny.omni.wider_training import NUM_TESTED, WiderListening
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training

__all__ = ["train_wider_thinking"]

NUM_STEPS = 2200
PEAK = 6e-4
TYPED_ROWS, PICTURE_ROWS, SPOKEN_ROWS = 10, 6, 14
STYLED = 0.3
"""Of the pictures: the tower sees too little of some styles for more to be learned from them."""


def train_wider_thinking(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Together(run, WiderListening(run))
    listening, speaking = model.tasks
    listening.num_rows, listening.num_picture_rows = TYPED_ROWS, PICTURE_ROWS
    listening.pictures.styled, listening.learns_to_hear = STYLED, False
    mixed = run.folder("mixed") / "state.pt"
    load_parts(model.omni, mixed, ("seeing", "thinking"))
    listening.load_reader(mixed)
    model.requires_grad_(False)
    train_only(model.omni, ("thinking",))
    speech = WiderSpeech(run.work, listening.layout)
    tests = WiderTests(listening, speaking, speech, NUM_TESTED)
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=100)
    training = Training(
        model, run.folder("thinking-wider"), schedule, seed=run.seed, save_every=250, log_every=25
    )

    # after the training's own state was read, which may have been interrupted: hearing may have gone on since
    load_parts(model.omni, run.folder("hearing-wider") / "state.pt", ("hearing", "speaking"))

    def losses(step: int, rng: random.Random) -> Losses:
        spoken = speech.draw_spoken(rng, SPOKEN_ROWS)
        return listening.losses(step, rng) | listening.spoken_losses(spoken, rng)

    training.run(losses, tests.right)
