"""All parts learn together: typed and spoken questions, units that are read, and text that is said."""

from __future__ import annotations

import random

import torch
from torch import nn

from antiphon_tiny.omni.hearing_training import word_errors
from antiphon_tiny.omni.listening_training import Listening, draw_spoken_samples, spoken_tests
from antiphon_tiny.omni.parts import MODEL, PARTS, load_parts, train_only
from antiphon_tiny.omni.speaking_training import Speaking
from antiphon_tiny.omni.spoken import POOL, Utterances, of_like_length, read_utterances
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training
from antiphon_tiny.world.samples import draw_samples

__all__ = ["Together", "train_together"]

NUM_STEPS = 1200
PEAK = 6e-4
TYPED_ROWS, PICTURE_ROWS = 14, 12
SPOKEN_ROWS = 8
HEARD_ROWS = 8
SAID_ROWS = 16
NUM_TESTED = 100
SLOW = {MODEL + start: 0.15 for part in ("seeing", "thinking") for start in PARTS[part]}
"""The parts that see and think have learned their tasks: at the others' pace they would lose some of their
right answers."""


class Together(nn.Module):
    """One model, and what makes the batches of its tasks."""

    def __init__(self, run: Run, listening: Listening) -> None:
        super().__init__()
        speaking = Speaking(run)
        speaking.omni = listening.omni
        listening.learns_to_hear = speaking.learns_to_hear = True
        self.omni, self.reader = listening.omni, listening.reader
        # A tuple, so that these are not submodules: the weights are in the state once.
        self.tasks = (listening, speaking)
        train_only(self.omni, PARTS)

    def train(self, mode: bool = True) -> Together:
        for task in self.tasks:
            task.train(mode)
        return super().train(mode)


def train_together(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Together(run, Listening(run, rows=TYPED_ROWS, picture_rows=PICTURE_ROWS))
    listening, speaking = model.tasks
    load_parts(model.omni, run.folder("listening") / "state.pt", ("seeing", "thinking"))
    listening.load_reader(run.folder("listening") / "state.pt")
    load_parts(model.omni, run.folder("hearing") / "state.pt", ("hearing",))
    load_parts(model.omni, run.folder("speaking") / "state.pt", ("speaking",))
    utterances = Utterances(run.work, listening.layout)
    spoken_to = spoken_tests(run, NUM_TESTED)
    heard = {
        name: read_utterances(run.work, f"{name}_heard", listening.layout)[:NUM_TESTED] for name in spoken_to
    }
    typed_tests = draw_samples(NUM_TESTED, "held_out", run.seed + 1)
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=100)
    training = Training(model, run.folder("together"), schedule, seed=run.seed, slow=SLOW, save_every=300)

    def losses(step: int, rng: random.Random) -> Losses:
        spoken = draw_spoken_samples(rng, utterances, SPOKEN_ROWS)
        said = [rng.choice(utterances.own) for _ in range(POOL * SAID_ROWS)]
        rows = speaking.draw_spoken(said, utterances.heard, rng)
        return (
            listening.losses(step, rng)
            | listening.spoken_losses(spoken, rng)
            | speaking.losses(speaking.draw(utterances, rng, HEARD_ROWS))
            | speaking.speak_losses(of_like_length(rng, rows, len), rng)
        )

    def evaluate() -> dict[str, float]:
        counts = listening.num_right(typed_tests)
        shown = {"held-out typed %": 100 * sum(right for right, _ in counts.values()) / len(typed_tests)}
        for name, part in heard.items():
            shown[f"{name} misheard %"] = word_errors(
                [said.text for said in part], speaking.transcripts(part)
            )
            if spoken_to[name]:
                right = listening.num_heard(spoken_to[name])
                shown[f"{name} answered %"] = 100 * right / len(spoken_to[name])
        return shown

    training.run(losses, evaluate)
