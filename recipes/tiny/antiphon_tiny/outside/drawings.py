"""Pictures that somebody else might draw: on a dark ground, as outlines, in pure colours, by hand.

A scene is written as in "big red circle left, small blue star right". None of this is the drawing code that
training uses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

__all__ = ["STYLES", "Thing", "draw", "things_in"]

SIDE = 384
RADII = {"small": 0.09, "big": 0.15}
PLACES = {
    "top-left": (0, 0), "top": (1, 0), "top-right": (2, 0),
    "left": (0, 1), "middle": (1, 1), "right": (2, 1),
    "bottom-left": (0, 2), "bottom": (1, 2), "bottom-right": (2, 2),
}  # fmt: skip
PURE = {
    "red": "#ff0000", "green": "#00b000", "blue": "#0000ff", "yellow": "#ffff00",
    "orange": "#ff8000", "purple": "#8000a0", "pink": "#ff80c0", "black": "#000000",
}  # fmt: skip
DULL = {
    "red": "#c04038", "green": "#4c9a50", "blue": "#3b6fb5", "yellow": "#e3c743",
    "orange": "#df8a35", "purple": "#7e4a9c", "pink": "#e58fb2", "black": "#1c1c1c",
}  # fmt: skip
DARK_GROUND, PAPER = "#28303c", "#f4f1e8"
LINE = 7
WOBBLE = 0.07

Point = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    kind: str
    place: str

    @property
    def centre(self) -> Point:
        column, row = PLACES[self.place]
        return (SIDE * (0.18 + 0.32 * column), SIDE * (0.18 + 0.32 * row))


def things_in(scene: str) -> list[Thing]:
    """Raises ValueError for words that are not of a scene."""
    things = [Thing(*phrase.split()) for phrase in scene.split(", ")]
    for thing in things:
        told = ((thing.size, RADII), (thing.colour, PURE), (thing.kind, SHAPES), (thing.place, PLACES))
        if any(word not in known for word, known in told):
            raise ValueError(f"{scene}: expected sizes, colours, shapes and places, found {thing}")
    return things


def draw(scene: str, style: str) -> Image.Image:
    """An RGB picture; the same arguments give the same."""
    rng = random.Random(f"{scene} {style}")
    ground = {"dark": DARK_GROUND, "hand": PAPER}.get(style, "#ffffff")
    image = Image.new("RGB", (SIDE, SIDE), ground)
    pen = ImageDraw.Draw(image)
    for thing in things_in(scene):
        STYLES[style](pen, thing, _around(thing), rng)
    return image


def _around(thing: Thing) -> list[Point]:
    """The shape's outline on the picture."""
    (x, y), radius = thing.centre, RADII[thing.size] * SIDE
    return [(x + radius * dx, y + radius * dy) for dx, dy in SHAPES[thing.kind]]


def _dark(pen: ImageDraw.ImageDraw, thing: Thing, outline: list[Point], rng: random.Random) -> None:
    """What is black has a pale rim, or nobody would see it."""
    rim = "#d8d8d8" if thing.colour == "black" else None
    pen.polygon(outline, fill=DULL[thing.colour], outline=rim, width=3)


def _outlined(pen: ImageDraw.ImageDraw, thing: Thing, outline: list[Point], rng: random.Random) -> None:
    pen.line([*outline, *outline[:2]], fill=DULL[thing.colour], width=LINE, joint="curve")


def _pure(pen: ImageDraw.ImageDraw, thing: Thing, outline: list[Point], rng: random.Random) -> None:
    pen.polygon(outline, fill=PURE[thing.colour])


def _by_hand(pen: ImageDraw.ImageDraw, thing: Thing, outline: list[Point], rng: random.Random) -> None:
    """A shaky outline that does not quite meet itself, and hatching."""
    radius = RADII[thing.size] * SIDE
    shaky = [
        (x + rng.gauss(0, WOBBLE / 2) * radius, y + rng.gauss(0, WOBBLE / 2) * radius)
        for x, y in _divided(outline, 4)
    ]
    mask = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon(shaky, fill=1)
    for place in range(int(-radius * 3), int(radius * 3), 7):
        for step in range(int(-radius * 2), int(radius * 2), 2):
            x = thing.centre[0] + step + rng.uniform(-1, 1)
            y = thing.centre[1] + place + step * 0.7 + rng.uniform(-1, 1)
            if 0 <= x < SIDE and 0 <= y < SIDE and mask.getpixel((int(x), int(y))):
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=DULL[thing.colour])
    end = (shaky[0][0] + rng.uniform(-4, 4), shaky[0][1] + rng.uniform(-4, 4))
    pen.line([*shaky, end], fill=DULL[thing.colour], width=4, joint="curve")


def _divided(outline: list[Point], parts: int) -> list[Point]:
    points = []
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        points += [(x0 + (x1 - x0) * i / parts, y0 + (y1 - y0) * i / parts) for i in range(parts)]
    return points


def _regular(corners: int, turn: float = 0.0, inner: float | None = None) -> list[Point]:
    """Corners on a circle, with `inner` those of a star."""
    count = corners if inner is None else 2 * corners
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(count)]
    angles = [2 * math.pi * (i / count + turn) - math.pi / 2 for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[Point]:
    """Two bows and a tip."""
    left = [(-0.5 - 0.5 * math.cos(t), -0.35 - 0.5 * math.sin(t)) for t in _bow()]
    right = [(0.5 - 0.5 * math.cos(t), -0.35 - 0.5 * math.sin(t)) for t in _bow()]
    return [*left, *right, (0.0, 1.0)]


def _bow() -> list[float]:
    return [math.pi * i / 12 for i in range(13)]


SHAPES: dict[str, list[Point]] = {
    "circle": _regular(48),
    "square": _regular(4, 0.125),
    "triangle": _regular(3),
    "star": _regular(5, inner=0.4),
    "heart": _heart(),
    "cross": [
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
        (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip

Style = Callable[[ImageDraw.ImageDraw, Thing, list[Point], random.Random], None]
STYLES: dict[str, Style] = {"dark": _dark, "outlines": _outlined, "pure": _pure, "hand": _by_hand}
