"""Makes the packaged demo question: `runtime/assets/demo/question.wav` and `shapes.png`.

    pip install hibari-tts soxr soundfile pillow
    python examples/make_demo_media.py

The question is spoken by hibari-tts (Apache-2.0) with a fixed seed; the picture is drawn here.
"""

from __future__ import annotations

from pathlib import Path

import soundfile
import soxr
from hibari import Hibari
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parents[1] / "runtime" / "assets" / "demo"
QUESTION = "What shapes are in the picture?"
RATE_HZ = 16_000
VOICE_RATE_HZ = 24_000
SIZE = (320, 240)
DRAWN_LARGER = 4  # then reduced, which smooths the edges


def question() -> None:
    samples = Hibari()(QUESTION, seed=0)
    soundfile.write(
        FOLDER / "question.wav", soxr.resample(samples, VOICE_RATE_HZ, RATE_HZ), RATE_HZ, "PCM_16"
    )


def shapes() -> None:
    def scaled(*points: int) -> list[int]:
        return [DRAWN_LARGER * point for point in points]

    width, height = SIZE
    picture = Image.new("RGB", (DRAWN_LARGER * width, DRAWN_LARGER * height), "#f4f1ea")
    draw = ImageDraw.Draw(picture)
    draw.ellipse(scaled(24, 72, 120, 168), fill="#d1372c")
    draw.rectangle(scaled(136, 84, 208, 156), fill="#2f66b3")
    draw.polygon(scaled(222, 164, 300, 164, 261, 76), fill="#2f9155")
    picture.resize(SIZE, Image.Resampling.LANCZOS).save(FOLDER / "shapes.png", optimize=True)


if __name__ == "__main__":
    question()
    shapes()
