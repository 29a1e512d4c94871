"""Scenes as pictures."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from antiphon_tiny.world.scene import Scene, Shape

__all__ = ["draw_picture"]

RGB = {
    "red": (214, 48, 44),
    "green": (44, 150, 75),
    "blue": (44, 100, 190),
    "yellow": (240, 208, 40),
    "orange": (242, 132, 28),
    "purple": (132, 62, 172),
    "pink": (246, 145, 185),
    "black": (26, 26, 28),
}
SHADE = 16
"""By how much a channel may differ from its colour's usual value."""
OVERSAMPLING = 2

Point = tuple[float, float]


def draw_picture(scene: Scene, long_side: int = 192) -> Image.Image:
    """An RGB picture of the scene, `long_side` pixels on its longer side; the same scene gives the same."""
    rng = random.Random(scene.seed)
    scale = long_side * OVERSAMPLING / max(scene.width, scene.height)
    size = (round(scene.width * scale), round(scene.height * scale))
    image = Image.new("RGB", size, _background(rng))
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        colour = tuple(min(255, max(0, c + rng.randint(-SHADE, SHADE))) for c in RGB[shape.colour])
        centre = (shape.x * size[0], shape.y * size[1])
        radius = shape.radius * min(size)
        if shape.kind == "circle":
            box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
            draw.ellipse(box, fill=colour)
        else:
            draw.polygon(_placed(rng, shape, centre, radius), fill=colour)
    return image.reduce(OVERSAMPLING)


def _background(rng: random.Random) -> tuple[int, ...]:
    """White, or some pale colour."""
    if rng.random() < 0.3:
        return (255, 255, 255)
    value = rng.uniform(205, 250)
    return tuple(round(min(255, value + rng.uniform(-14, 14))) for _ in range(3))


def _placed(rng: random.Random, shape: Shape, centre: Point, radius: float) -> list[Point]:
    """The outline, turned and stretched a little."""
    turn = math.radians(rng.uniform(-9, 9))
    wide, high = rng.uniform(0.88, 1.0), rng.uniform(0.88, 1.0)
    cos, sin = math.cos(turn), math.sin(turn)
    points = []
    for x, y in OUTLINES[shape.kind]:
        x, y = x * wide * radius, y * high * radius
        points.append((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos))
    return points


def _star() -> list[Point]:
    points = []
    for i in range(10):
        r = 1.08 if i % 2 == 0 else 0.46
        angle = math.pi * (i / 5 - 0.5)
        points.append((r * math.cos(angle), r * math.sin(angle) + 0.06))
    return points


def _heart() -> list[Point]:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16.5, -(y + 2.5) / 15.5))
    return points


def _cross() -> list[Point]:
    a, b = 0.34, 1.0
    return [
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a),
        (-b, -a), (-a, -a),
    ]  # fmt: skip


OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (0.97, 0.86), (-0.97, 0.86)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}
"""Around (0, 0) in a circle of radius 1, y downwards."""
