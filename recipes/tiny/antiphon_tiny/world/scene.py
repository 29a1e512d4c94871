"""Scenes: one to five shapes on a grid of three by three, and what can be asked of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from antiphon_tiny.world.words import COLOURS, KINDS, PLACES, SIZES, plural

__all__ = ["Filter", "Scene", "Shape", "draw_scene"]

SMALL = (0.082, 0.1)
BIG = (0.13, 0.205)
"""Radius as a part of the picture's shorter side; nothing lies between."""
ASPECTS = ((1, 1), (1, 1), (4, 3), (3, 4), (5, 4))
GAP = 0.015


@dataclass(frozen=True)
class Shape:
    kind: str
    colour: str
    size: str
    row: int
    column: int
    x: float
    """Centre, as a part of the width; from the left."""
    y: float
    """Centre, as a part of the height; from above."""
    radius: float
    """As a part of the shorter side."""

    @property
    def place(self) -> str:
        return PLACES[self.row, self.column]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    shapes: tuple[Shape, ...]
    """In reading order: row by row, each from the left."""
    width: int
    height: int
    """Of the picture, in any unit."""
    seed: int
    """Of how the picture looks otherwise: background, shades, turns."""

    @property
    def key(self) -> str:
        """What it shows, wherever it lies: scenes of one key are in one split."""
        return " + ".join(sorted(shape.name for shape in self.shapes))


@dataclass(frozen=True)
class Filter:
    """Shapes by size, colour and kind; None is any."""

    size: str | None = None
    colour: str | None = None
    kind: str | None = None

    def of(self, scene: Scene) -> list[Shape]:
        return [shape for shape in scene.shapes if self.matches(shape)]

    def matches(self, shape: Shape) -> bool:
        wanted = ((self.size, shape.size), (self.colour, shape.colour), (self.kind, shape.kind))
        return all(want is None or want == found for want, found in wanted)

    @property
    def one(self) -> str:
        return self._phrase(self.kind or "shape")

    @property
    def many(self) -> str:
        return self._phrase(plural(self.kind or "shape"))

    def _phrase(self, noun: str) -> str:
        return " ".join(word for word in (self.size, self.colour, noun) if word)


def draw_scene(rng: random.Random) -> Scene:
    """A scene; shapes of one kind or one colour come together more often than by chance."""
    while True:
        num_shapes = rng.choice((1, 2, 2, 3, 3, 4, 5))
        width, height = rng.choice(ASPECTS)
        kinds, colours = _pool(rng, KINDS, num_shapes), _pool(rng, COLOURS, num_shapes)
        cells = sorted(rng.sample(sorted(PLACES), num_shapes))
        shapes = [_shape(rng, rng.choice(kinds), rng.choice(colours), cell, width / height) for cell in cells]
        if not any(_touch(a, b, width, height) for a, b in _pairs(shapes)):
            return Scene(tuple(shapes), width, height, rng.getrandbits(32))


def _pool(rng: random.Random, names: tuple[str, ...], num_shapes: int) -> list[str]:
    """The kinds or colours that this scene has: few of them, so that there is something to count."""
    return rng.sample(names, rng.randint(1, max(2, num_shapes)))


def _shape(rng: random.Random, kind: str, colour: str, cell: tuple[int, int], aspect: float) -> Shape:
    size = rng.choice(SIZES)
    radius = rng.uniform(*(SMALL if size == "small" else BIG))
    row, column = cell
    x = _centre(rng, column, radius / max(aspect, 1.0))
    y = _centre(rng, row, radius * min(aspect, 1.0))
    return Shape(kind, colour, size, row, column, x, y, radius)


def _centre(rng: random.Random, third: int, radius: float) -> float:
    """A point in the middle part of this third of the side, as far from the edge as the shape needs."""
    low, high = third / 3 + 0.07, (third + 1) / 3 - 0.07
    margin = radius + 0.01
    return rng.uniform(max(low, margin), max(low, margin, min(high, 1 - margin)))


def _touch(a: Shape, b: Shape, width: int, height: int) -> bool:
    side = min(width, height)
    distance: float = (((a.x - b.x) * width) ** 2 + ((a.y - b.y) * height) ** 2) ** 0.5 / side
    return distance < a.radius + b.radius + GAP


def _pairs(shapes: list[Shape]) -> Iterator[tuple[Shape, Shape]]:
    for i, a in enumerate(shapes):
        for b in shapes[:i]:
            yield a, b
