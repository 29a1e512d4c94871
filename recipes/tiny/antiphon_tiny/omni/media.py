"""Sounds and pictures that come with the project: the demo's question, and ten that the test suite asks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import soundfile
import soxr

from antiphon_tiny.omni.evaluation import PICTURE_SIZE
from antiphon_tiny.omni.spoken_evaluation import RATE_HZ, SpokenQuestion, spoken_questions
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.samples import draw_scene_of
from antiphon_tiny.world.scene import Scene

__all__ = ["draw_questions", "write_demo", "write_questions"]

PROJECT = Path(__file__).parents[4]
DEMO = PROJECT / "runtime" / "assets" / "demo"
SUITE = PROJECT / "tests" / "golden" / "spoken_questions"
QUESTION = "What is in the picture?"
VOICE_RATE_HZ = 24_000
VOICES = {"test_heart": 8, "test_slt": 2}
"""The number of the suite's questions in each voice; sound of both may be redistributed."""
NUM_DRAWN = 120


def write_demo(folder: Path = DEMO, seed: int = 5) -> None:
    """question.wav, in the voice of hibari-tts, and shapes.png: three shapes, a combination held out."""
    from hibari import Hibari  # pyright: ignore[reportMissingImports]  # of the extra "recipe"

    spoken = soxr.resample(Hibari()(QUESTION, seed=0), VOICE_RATE_HZ, RATE_HZ)
    soundfile.write(folder / "question.wav", spoken, RATE_HZ, "PCM_16")
    rng = random.Random(seed)
    scene = draw_scene_of(rng, "held_out")
    while not _shows_three(scene):
        scene = draw_scene_of(rng, "held_out")
    draw_picture(scene, PICTURE_SIZE).save(folder / "shapes.png", optimize=True)


def _shows_three(scene: Scene) -> bool:
    """Three kinds in three colours, all big, in a picture that is wider than high."""
    kinds, colours = {shape.kind for shape in scene.shapes}, {shape.colour for shape in scene.shapes}
    big = sum(shape.size == "big" for shape in scene.shapes)
    return len(scene.shapes) == len(kinds) == len(colours) == 3 and big == 3 and scene.width > scene.height


def draw_questions(work: Path, seed: int = 0) -> list[SpokenQuestion]:
    """For each voice, half of the questions are about pictures; a topic comes again only when there are no
    others left."""
    chosen: list[SpokenQuestion] = []
    for voice, count in VOICES.items():
        candidates = spoken_questions(work, voice, limit=NUM_DRAWN, seed=seed)
        for about_picture in (True, False):
            fitting = [c for c in candidates if (c.sample.scene is not None) == about_picture]
            topics = {question.sample.topic for question in chosen}
            first = {question.sample.topic: question for question in reversed(fitting)}
            fresh = [question for topic, question in first.items() if topic not in topics]
            others = [question for question in fitting if question not in fresh]
            chosen += [*fresh, *others][: count // 2]
    return chosen


def write_questions(work: Path, folder: Path = SUITE) -> None:
    """NUMBER.flac and NUMBER.png, and `questions.json` that tells what is asked and what is right."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, question in enumerate(draw_questions(work)):
        name, scene = f"{number:02}", question.sample.scene
        soundfile.write(folder / f"{name}.flac", question.sound, RATE_HZ, subtype="PCM_16")
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
