"""What "wider" is measured on while it is trained: held out, and none of it from outside."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from antiphon_tiny.omni.hearing_training import word_errors
from antiphon_tiny.omni.listening_training import Listening
from antiphon_tiny.omni.speaking_training import Speaking
from antiphon_tiny.omni.wider_speech import WiderSpeech
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.phrasing import phrased
from antiphon_tiny.world.samples import draw_samples

__all__ = ["WiderTests"]

ROWS = 24
"""Replies of a batch."""


class WiderTests:
    """Held-out questions and recordings. Each method returns figures by name, all of them in per cent."""

    def __init__(self, listening: Listening, speaking: Speaking, speech: WiderSpeech, count: int) -> None:
        """count: of each kind, and three times as many questions in other wordings."""
        self._listening, self._speaking = listening, speaking
        self._typed = {
            "typed": draw_samples(count, "held_out", seed=1),
            "wordings": [_reworded(sample) for sample in draw_samples(3 * count, "held_out", seed=2)],
        }
        self._asked = speech.tests(count)
        self._heard = speech.heard_tests(count)
        self._said = speech.said_tests(count)

    def right(self) -> dict[str, float]:
        """Answers that are right to the last word"""
        shown = {}
        for name, samples in self._typed.items():
            counts = self._listening.num_right(samples)
            shown[f"held-out {name} %"] = 100 * sum(right for right, _ in counts.values()) / len(samples)
        for name, asked in self._asked.items():
            if asked:
                shown[f"spoken, {name} %"] = 100 * self._listening.num_heard(asked) / len(asked)
        return shown

    def misheard(self) -> dict[str, float]:
        """Words"""
        return {
            f"misheard, {name} %": word_errors([said.text for said in part], self._speaking.transcripts(part))
            for name, part in self._heard.items()
            if part
        }

    def guessed(self) -> dict[str, float]:
        """Units of what is to be said that are guessed right"""
        rng, right = random.Random(0), 0.0
        for start in range(0, len(self._said), ROWS):
            part = self._said[start : start + ROWS]
            rows = self._speaking.draw_spoken(part, self._said, rng)
            losses = self._speaking.speak_losses(rows, rng).all
            right += float(losses["right %"]) * len(part)
        return {"guessed %": right / len(self._said)} if self._said else {}

    @torch.no_grad()
    def all(self) -> dict[str, float]:
        return self.right() | self.misheard() | self.guessed()


def _reworded(sample: Sample) -> Sample:
    """With its last question in a wording that training does not see."""
    *before, last = sample.turns
    rng = random.Random(f"{last.question} {len(before)}")
    return replace(
        sample, turns=(*before, replace(last, question=phrased(rng, last.question, held_out=True)))
    )
