"""What the packaged model reads of a turn: where silence is left in, a second of it costs the first word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from antiphon import Engine, Request, Speech
from antiphon.codec import read_audio
from antiphon.sound.arrays import AudioArray
from antiphon.turns.activity import ActivityKind, voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.settings import TurnDetection

QUESTIONS = Path(__file__).parent.parent / "golden" / "spoken_questions"
RATE_HZ = 16000


def turn(samples: AudioArray, kind: ActivityKind) -> AudioArray:
    first, *_, last = TurnDetector(TurnDetection(), voice_activity(kind), RATE_HZ).push(samples)
    return samples[first.at : last.at]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silero", "energy"])
def test_silence_around_a_turn_does_not_reach_the_model(kind: ActivityKind) -> None:
    rows = json.loads((QUESTIONS / "questions.json").read_text("utf-8"))
    rng = np.random.default_rng(0)
    whole = []
    for row in rows:
        samples = np.concatenate(
            [np.zeros(RATE_HZ), read_audio(QUESTIONS / row["sound"])[0], np.zeros(RATE_HZ)]
        )
        whole.append((samples + 1e-4 * rng.normal(size=len(samples))).astype(np.float32))
    cut = [turn(samples, kind) for samples in whole]
    with Engine() as engine:
        heard = engine.generate(
            [Request([Speech((samples, RATE_HZ), False)], ("transcript",)) for samples in [*whole, *cut]]
            + [Request([Speech((samples, RATE_HZ))], ("transcript",)) for samples in whole]
        )
    right = [
        completion.transcript.strip("?.") == row["question"].strip("?.")
        for completion, row in zip(heard, rows * 3, strict=True)
    ]
    assert sum(right[:10]) <= 2
    assert sum(right[10:20]) >= 7
    assert sum(right[20:]) >= 7
