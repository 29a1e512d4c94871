"""Pictures as training reads them: tiles, cut by the runtime's own code, and what each patch shows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.inputs.tiles import Tiler
from antiphon_tiny.omni.geometry import Geometry
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.scene import Scene, Shape
from antiphon_tiny.world.styles import draw_styled
from antiphon_tiny.world.words import COLOURS, KINDS, SIZES

__all__ = ["PictureReader", "patch_of"]

NEAR = 0.08
"""In patches."""
LONG_SIDES = (96, 112, 128, 160, 192, 256)


def patch_of(scene: Scene, shape: Shape, side: int) -> int:
    """In which of side * side patches its centre lies."""
    x, y = _centre(scene, shape)
    return int(y * side) * side + int(x * side)


def _centre(scene: Scene, shape: Shape) -> tuple[float, float]:
    """As a part of the tile's side: the picture lies in the middle of a square."""
    longest = max(scene.width, scene.height)
    x = (shape.x * scene.width + (longest - scene.width) / 2) / longest
    y = (shape.y * scene.height + (longest - scene.height) / 2) / longest
    return x, y


class PictureReader:
    styled = 0.0
    """The part of the training's pictures that are drawn as others would draw them."""

    def __init__(self, geometry: Geometry, config: ModelConfig) -> None:
        self.geometry = geometry
        self.tiler = Tiler(config)

    def tiles(self, scenes: Sequence[Scene], rng: random.Random | None = None) -> Tensor:
        """uint8 (scenes, size, size, 3). rng: for pictures of any size, with a little noise."""
        long_sides = [rng.choice(LONG_SIDES) if rng else 320 for _ in scenes]
        drawn = [
            draw_styled(scene, rng, side) if rng and rng.random() < self.styled else draw_picture(scene, side)
            for scene, side in zip(scenes, long_sides, strict=True)
        ]
        tiles = np.concatenate([self.tiler.cut(picture) for picture in drawn])
        if rng is None:
            return torch.from_numpy(tiles)
        noise = torch.randn(tiles.shape) * torch.rand(len(tiles), 1, 1, 1) * 6
        return (torch.from_numpy(tiles) + noise).clamp_(0, 255).to(torch.uint8)

    def labels(self, scenes: Sequence[Scene]) -> Tensor:
        """int64 (scenes, side * side, 6): there, kind, colour, size, row and column of the shape whose centre
        lies in the patch; -100 for all but the first where there is none. Where a centre lies too near to a
        neighbouring patch, either may have it."""
        side = self.geometry.side
        labels = torch.full((len(scenes), side**2, 6), -100)
        labels[..., 0] = 0
        for picture, scene in zip(labels, scenes, strict=True):
            for shape in scene.shapes:
                x, y = _centre(scene, shape)
                row, column = int(y * side), int(x * side)
                near = {
                    (int(y * side + dy) * side + int(x * side + dx))
                    for dy in (-NEAR, NEAR)
                    for dx in (-NEAR, NEAR)
                }
                if len(near) > 1:
                    picture[sorted(near), 0] = -100
                there = 1 if len(near) == 1 else -100
                kind, colour, size = (
                    KINDS.index(shape.kind), COLOURS.index(shape.colour), SIZES.index(shape.size),
                )  # fmt: skip
                labels_here = [there, kind, colour, size, shape.row, shape.column]
                picture[row * side + column] = torch.tensor(labels_here)
        return labels
