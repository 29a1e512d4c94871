"""Ten held-out questions for the test suite: each as a sound, with its picture and the right answer."""

from __future__ import annotations

import json
from pathlib import Path

import soundfile
from world.picture import draw_picture

from omni.evaluation import PICTURE_SIZE
from omni.spoken_evaluation import RATE_HZ, SpokenQuestion, spoken_questions

__all__ = ["FOLDER", "draw_questions", "write_questions"]

FOLDER = Path(__file__).parents[3] / "tests" / "golden" / "spoken_questions"
VOICES = {"test_heart": 8, "test_slt": 2}
"""How many in which voice: the model's own, and one whose sounds may be given away as well."""
NUM_DRAWN = 120


def draw_questions(work: Path, seed: int = 5) -> list[SpokenQuestion]:
    """Of each voice as many about pictures as others, each on another topic as long as there are more."""
    chosen: list[SpokenQuestion] = []
    for voice, count in VOICES.items():
        candidates = spoken_questions(work, voice, limit=NUM_DRAWN, seed=seed)
        for about_picture in (True, False):
            fitting = [c for c in candidates if (c.sample.scene is not None) == about_picture]
            topics = {question.sample.topic for question in chosen}
            fitting.sort(key=lambda question: question.sample.topic in topics)
            of_topics = {question.sample.topic: question for question in reversed(fitting)}
            fresh = [q for topic, q in of_topics.items() if topic not in topics]
            others = [q for q in fitting if q not in fresh]
            chosen += [*fresh, *others][: count // 2]
    return chosen


def write_questions(work: Path, folder: Path = FOLDER) -> None:
    """NUMBER.flac and NUMBER.png, and `questions.json` that tells what is asked and what is right."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, question in enumerate(draw_questions(work)):
        name = f"{number:02}"
        soundfile.write(folder / f"{name}.flac", question.sound, RATE_HZ, subtype="PCM_16")
        scene = question.sample.scene
        if scene is not None:
            draw_picture(scene, PICTURE_SIZE).save(folder / f"{name}.png", optimize=True)
        rows.append(
            {
                "sound": f"{name}.flac",
                "picture": None if scene is None else f"{name}.png",
                "question": question.sample.turns[0].question,
                "answer": question.sample.answer,
            }
        )
    (folder / "questions.json").write_text(json.dumps(rows, indent=1) + "\n")
