"""All parts learn a wider world, from the weights of "together": many wordings, names and words of all
kinds, other drawings, long recordings.

To learn what is typed alone soon costs what was learned of speech, and the other way round: so every step has
all of it.
"""

from __future__ import annotations

import random

import torch

from antiphon_tiny.omni.listening_training import Listening
from antiphon_tiny.omni.parts import MODEL, PARTS, load_parts
from antiphon_tiny.omni.spoken import POOL, SpokenRow, of_like_length
from antiphon_tiny.omni.together_training import Together
from antiphon_tiny.omni.wider_speech import WiderSpeech
from antiphon_tiny.omni.wider_tests import WiderTests
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.free import draw_free
from antiphon_tiny.world.wordings import as_asked

__all__ = ["train_wider"]

NUM_STEPS = 2420
PEAK = 1e-3
FIRST_STEPS = 250
TYPED_ROWS, PICTURE_ROWS, HEARD_ROWS, UNANSWERED = (11, 8), (6, 5), (14, 28), (0.0, 0.8)
"""At first, and after `FIRST_STEPS`: to spell what is heard takes longer to learn than new wordings."""
SPOKEN_ROWS = 14
LONG_ROWS, LONG_EVERY = 3, 4
"""Every so many steps so many long recordings are heard in place of single utterances."""
SAID_ROWS = 6
STYLED = 0.6
SLOW = {
    **{MODEL + start: 0.5 for start in (*PARTS["seeing"], *PARTS["thinking"])},
    **{MODEL + start: 0.15 for start in PARTS["speaking"]},
}
"""What is said is the same as before, in more words; much of what is seen and answered is new."""
NUM_TESTED = 60


class WiderListening(Listening):
    """Typed questions in many wordings, about pictures in many styles."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, rows=TYPED_ROWS[0], picture_rows=PICTURE_ROWS[0])
        self.layout.word = as_asked
        self.pictures.styled = STYLED

    def draw_talk(self, rng: random.Random) -> Sample:
        return draw_free(rng)


def train_wider(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Together(run, WiderListening(run))
    listening, speaking = model.tasks
    load_parts(model.omni, run.folder("together") / "state.pt", PARTS)
    listening.load_reader(run.folder("together") / "state.pt")
    speech = WiderSpeech(run.work, listening.layout)
    tests = WiderTests(listening, speaking, speech, NUM_TESTED)
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=60)
    training = Training(
        model, run.folder("wider"), schedule, seed=run.seed, slow=SLOW, save_every=250, log_every=25
    )

    def heard_rows(step: int, rng: random.Random) -> list[SpokenRow]:
        if step % LONG_EVERY:
            later = step >= FIRST_STEPS
            return speaking.draw(speech, rng, HEARD_ROWS[later], unanswered=UNANSWERED[later])
        closing = listening.layout.closing
        return [SpokenRow([speech.draw_long(rng), closing, rng.choice(speech.own)]) for _ in range(LONG_ROWS)]

    def losses(step: int, rng: random.Random) -> Losses:
        later = step >= FIRST_STEPS
        listening.num_rows, listening.num_picture_rows = TYPED_ROWS[later], PICTURE_ROWS[later]
        said = [speech.draw_said(rng) for _ in range(POOL * SAID_ROWS)]
        rows = speaking.draw_spoken(said, speech.heard, rng)
        return (
            listening.losses(step, rng)
            | listening.spoken_losses(speech.draw_spoken(rng, SPOKEN_ROWS), rng)
            | speaking.losses(heard_rows(step, rng))
            | speaking.speak_losses(of_like_length(rng, rows, len), rng)
        )

    training.run(losses, tests.all)
