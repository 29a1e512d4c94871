"""Scenes as others would draw them: on any ground, filled, outlined or hatched, in many tones, by a steady
hand or not.

`picture` has one way to draw; who learns from that alone sees nothing on a dark ground. Each picture here has
a ground, tones, a stroke and a hand of its own.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from antiphon_tiny.world.picture import OUTLINES, Point
from antiphon_tiny.world.scene import Scene, Shape

__all__ = ["draw_styled"]

OVERSAMPLING = 2
TONES = {
    "red": ((-9, 8), (0.62, 1.0), (0.66, 1.0)),
    "green": ((92, 152), (0.42, 1.0), (0.42, 0.85)),
    "blue": ((204, 246), (0.55, 1.0), (0.55, 1.0)),
    "yellow": ((47, 62), (0.6, 1.0), (0.85, 1.0)),
    "orange": ((20, 36), (0.68, 1.0), (0.83, 1.0)),
    "purple": ((266, 297), (0.38, 1.0), (0.42, 0.76)),
    "pink": ((318, 352), (0.28, 0.56), (0.86, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.15)),
}  # fmt: skip
"""Hue in degrees, saturation and value of what is called by each colour's name."""
DARK = 90
"""Grounds below this are dark: what is black has a pale rim on them, or nobody would see it."""
DIMMEST, PALE = 0.58, 200
"""The least value of what lies on a ground that is not as pale as this."""
FILLS = {"full": 0.42, "outline": 0.34, "hatched": 0.14, "full and outline": 0.1}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """What all shapes of a picture have in common."""

    ground: Colour
    fill: str
    stroke: float
    """As a part of the picture's shorter side."""
    shake: float
    """How far a point of an outline may lie from its place, as a part of the radius."""
    hatch: float
    """Distance between two lines, as a part of the radius."""
    turn: float
    """Degrees, at most, by which shapes are turned."""
    pure: bool
    """Colours as bright as a screen has them."""


def draw_styled(scene: Scene, rng: random.Random, long_side: int = 192) -> Image.Image:
    """An RGB picture of the scene, `long_side` pixels on its longer side, in a style that is drawn."""
    style = _style(rng)
    scale = long_side * OVERSAMPLING / max(scene.width, scene.height)
    size = (round(scene.width * scale), round(scene.height * scale))
    image = Image.new("RGB", size, style.ground)
    for shape in scene.shapes:
        _put(image, shape, style, rng)
    return image.reduce(OVERSAMPLING)


def _style(rng: random.Random) -> Style:
    kind = rng.random()
    if kind < 0.3:
        ground = (255, 255, 255)
    elif kind < 0.5:
        ground = _near(rng, rng.uniform(200, 252), 16)
    elif kind < 0.88:
        ground = _near(rng, rng.uniform(8, 78), 16)
    else:
        ground = _near(rng, rng.uniform(110, 190), 6)
    return Style(
        ground,
        rng.choices(tuple(FILLS), tuple(FILLS.values()))[0],
        rng.uniform(0.009, 0.03),
        rng.choice((0.0, 0.0, rng.uniform(0.01, 0.06))),
        rng.uniform(0.12, 0.3),
        rng.choice((0.0, 10.0, 18.0)),
        rng.random() < 0.3,
    )


def _near(rng: random.Random, value: float, by: float) -> Colour:
    red, green, blue = (round(min(255, max(0, value + rng.uniform(-by, by)))) for _ in range(3))
    return red, green, blue


def _tone(rng: random.Random, name: str, style: Style) -> Colour:
    hues, saturations, values = TONES[name]
    hue, saturation, value = rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values)
    if style.pure and name != "black":
        saturation, value = saturations[1], values[1]
    if name != "black" and max(style.ground) < PALE:
        value = max(value, DIMMEST)
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _put(image: Image.Image, shape: Shape, style: Style, rng: random.Random) -> None:
    side = min(image.size)
    radius = shape.radius * side
    points = _outline(shape, (shape.x * image.width, shape.y * image.height), radius, style, rng)
    colour = _tone(rng, shape.colour, style)
    width = max(2, round(style.stroke * side))
    pen = ImageDraw.Draw(image)
    closed = [*points, *points[:2]]
    if shape.colour == "black" and max(style.ground) < DARK:
        pen.line(
            closed, fill=_near(rng, rng.uniform(170, 235), 10), width=width + 2 * OVERSAMPLING, joint="curve"
        )
    if style.fill.startswith("full"):
        pen.polygon(points, fill=colour)
    if style.fill == "full and outline":
        shade = rng.uniform(0.45, 0.85)
        pen.line(
            closed, fill=tuple(round(c * shade) for c in colour), width=max(2, width // 2), joint="curve"
        )
    elif style.fill != "full":
        if style.fill == "hatched":
            _hatch(image, points, radius, colour, style, rng)
        pen.line(closed, fill=colour, width=width, joint="curve")


def _hatch(
    image: Image.Image, points: list[Point], radius: float, colour: Colour, style: Style, rng: random.Random
) -> None:
    """Lines across the shape, one beside the other."""
    mask = Image.new("1", image.size)
    ImageDraw.Draw(mask).polygon(points, fill=1)
    lines = Image.new("1", image.size)
    pen = ImageDraw.Draw(lines)
    angle = rng.uniform(0, math.pi)
    x, y = (sum(point[i] for point in points) / len(points) for i in (0, 1))
    along = (math.cos(angle) * radius * 2, math.sin(angle) * radius * 2)
    across = (-math.sin(angle), math.cos(angle))
    step = style.hatch * radius
    for number in range(-int(2 * radius / step), int(2 * radius / step) + 1):
        off = number * step + rng.uniform(-0.15, 0.15) * step
        cx, cy = x + across[0] * off, y + across[1] * off
        ends = (cx - along[0], cy - along[1], cx + along[0], cy + along[1])
        pen.line(ends, fill=1, width=max(2, round(step * rng.uniform(0.3, 0.6))))
    image.paste(colour, mask=Image.composite(lines, Image.new("1", image.size), mask))


def _outline(shape: Shape, centre: Point, radius: float, style: Style, rng: random.Random) -> list[Point]:
    turn = math.radians(rng.uniform(-style.turn, style.turn))
    wide, high = rng.uniform(0.86, 1.0), rng.uniform(0.86, 1.0)
    cos, sin = math.cos(turn), math.sin(turn)
    points = []
    for x, y in _smoothed(_plain(shape.kind, rng), style.shake, rng):
        x, y = x * wide * radius, y * high * radius
        points.append((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos))
    return points


def _smoothed(points: list[Point], shake: float, rng: random.Random) -> list[Point]:
    """With more points, each a little off its place."""
    if not shake:
        return points
    parts = max(2, 32 // len(points))
    out = []
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        for i in range(parts):
            x, y = x0 + (x1 - x0) * i / parts, y0 + (y1 - y0) * i / parts
            out.append((x + rng.gauss(0, shake), y + rng.gauss(0, shake)))
    return out


def _plain(kind: str, rng: random.Random) -> list[Point]:
    """The outline in a circle of radius 1, each time a little otherwise: a slimmer star, a wider cross."""
    if kind == "circle":
        return [(math.cos(t * math.pi / 20), math.sin(t * math.pi / 20)) for t in range(40)]
    if kind == "square":
        half = rng.uniform(0.7, 0.9)
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if kind == "triangle":
        low, half = rng.uniform(0.5, 0.88), rng.uniform(0.84, 0.98)
        return [(0.0, -1.0), (half, low), (-half, low)]
    if kind == "star":
        inner = rng.uniform(0.36, 0.5)
        spokes = [(1.0 if i % 2 == 0 else inner, math.pi * (i / 5 - 0.5)) for i in range(10)]
        return [(r * math.cos(t), r * math.sin(t)) for r, t in spokes]
    if kind == "cross":
        a = rng.uniform(0.24, 0.38)
        return [
            (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a),
            (-a, -a),
        ]  # fmt: skip
    return _heart(rng) if rng.random() < 0.5 else OUTLINES["heart"]


def _heart(rng: random.Random) -> list[Point]:
    """Two round lobes and straight sides down to the tip."""
    high, lobe = rng.uniform(0.25, 0.45), rng.uniform(0.42, 0.56)
    turns = [math.pi * i / 10 for i in range(11)]
    left = [(-0.5 - 0.5 * math.cos(t), -high - lobe * math.sin(t)) for t in turns]
    right = [(0.5 - 0.5 * math.cos(t), -high - lobe * math.sin(t)) for t in turns]
    return [*left, *right, (0.0, rng.uniform(0.85, 1.0))]
