"""How a picture is cut into square tiles, and which of their features become positions of the prompt.

The scheme is LLaVA-NeXT's "anyres": the whole picture as one tile, and the picture at a higher
resolution as a grid of tiles. It computes with Python floats in the order of the released code, since a
size that comes out one below its exact value changes how many rows are kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from PIL import Image as PilImage

from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError
from antiphon.prompt import MergePlan

__all__ = ["Tiler"]

_MEAN = int(0.5 * 255)
_PAD_COLOUR = (_MEAN, _MEAN, _MEAN)
"""The mean colour of SigLIP's preprocessing."""
_SHRINK_ABOVE = 1.1
"""Features are shrunk if there are too many of them by more than this factor per side."""


class Tiler:
    """Cuts pictures as a checkpoint's config says; `CheckpointError` names a setting it does not know.

    `image_aspect_ratio` "pad": one tile, the picture on a square of the mean colour. "anyres": the
    whole picture and a grid of tiles, one of `image_grid_pinpoints`. "anyres_max_N": the same, with the
    features shrunk to about N tiles' worth if there are more. `mm_patch_merge_type` "flat" keeps all
    features, "spatial_unpad" those of the picture without its padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.vision is None:
            raise ValueError("config.vision: expected a vision tower, found None")
        self.tile_size = config.vision.image_size
        self.side = config.vision.side
        mode = re.fullmatch(r"pad|anyres(?:_max_([1-9]\d*))?", config.image_aspect_ratio)
        if mode is None:
            raise _refused("image_aspect_ratio", "pad, anyres or anyres_max_N", config.image_aspect_ratio)
        if config.mm_patch_merge_type not in ("flat", "spatial_unpad"):
            raise _refused("mm_patch_merge_type", "flat or spatial_unpad", config.mm_patch_merge_type)
        self.pads = mode[0] == "pad"
        self._unpads = config.mm_patch_merge_type == "spatial_unpad"
        self._max_tiles = int(mode[1]) if mode[1] else None
        self._resolutions = [] if self.pads else _resolutions(config.image_grid_pinpoints, self.tile_size)

    def plan(self, width: int, height: int) -> MergePlan:
        """The merge of a picture of this size in pixels."""
        if self.pads:
            return MergePlan(1, self.side)
        rows, columns = self._grid(width, height)
        num_tiles = 1 + rows * columns
        if not self._unpads:
            return MergePlan(num_tiles, self.side)
        kept_rows, kept_columns = _unpadded(width, height, rows * self.side, columns * self.side)
        plan = MergePlan(num_tiles, self.side, (rows, columns), kept_rows, kept_columns)
        return replace(plan, shrunk=self._shrunk(*plan.map_size))

    @property
    def most_positions(self) -> int:
        """Positions that no picture takes more of."""
        if self.pads:
            return self.side**2
        grids = [(width // self.tile_size, height // self.tile_size) for width, height in self._resolutions]
        num_features = max(columns * rows for columns, rows in grids) * self.side**2
        if not self._unpads:
            return self.side**2 + num_features
        if self._max_tiles is not None:
            # A map that is shrunk keeps a row and a column, however narrow it is.
            longest = max(max(grid) for grid in grids) * self.side
            shrunk = int(_SHRINK_ABOVE**2 * self._max_tiles * self.side**2) + 1
            num_features = min(num_features, max(shrunk, longest))
        return self.side**2 + num_features + max(rows for _, rows in grids) * self.side

    def cut(self, image: PilImage.Image) -> np.ndarray:
        """The tiles of an RGB picture: uint8 (tiles, tile_size, tile_size, 3), the whole picture first."""
        size = self.tile_size
        if self.pads:
            side = max(image.size)
            image = _centred(image, (side, side), _PAD_COLOUR)
        whole = np.array(_resized(image, (size, size)))[None]
        if self.pads:
            return whole
        rows, columns = self._grid(*image.size)
        target = (columns * size, rows * size)
        fitted = _resized(image, _fitted_size(image.size, target))
        canvas = np.asarray(_centred(fitted, target, (0, 0, 0)))
        parts = canvas.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
        return np.ascontiguousarray(np.concatenate([whole, parts]))

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) of the grid that shows most of the picture; on a tie, of the least wasteful one."""

        def merit(resolution: tuple[int, int]) -> tuple[int, int]:
            scale = min(resolution[0] / width, resolution[1] / height)
            shown = min(int(width * scale) * int(height * scale), width * height)
            return shown, shown - resolution[0] * resolution[1]

        columns, rows = max(self._resolutions, key=merit)
        return rows // self.tile_size, columns // self.tile_size

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int] | None:
        """The size that a map of features is shrunk to; None if it keeps its size."""
        if self._max_tiles is None:
            return None
        times = math.sqrt(rows * columns / (self._max_tiles * self.side**2))
        if times <= _SHRINK_ABOVE:
            return None
        return max(1, int(rows // times)), max(1, int(columns // times))


def _resolutions(pinpoints: str | tuple[tuple[int, int], ...], tile_size: int) -> list[tuple[int, int]]:
    """The (width, height) that a grid may have, in pixels, in order of preference."""
    expected = f"(WxH) pairs of tiles, or a list of [width, height] in multiples of {tile_size} pixels"
    if isinstance(pinpoints, str):
        grids = [(int(wide), int(high)) for wide, high in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        if not grids:
            raise _refused("image_grid_pinpoints", expected, pinpoints)
        # Only the ends of the list are read: they span a rectangle of grids.
        (first_wide, first_high), (last_wide, last_high) = grids[0], grids[-1]
        resolutions = [
            (wide * tile_size, high * tile_size)
            for wide in range(first_wide, last_wide + 1)
            for high in range(first_high, last_high + 1)
        ]
    else:
        resolutions = list(pinpoints)
    if not resolutions or any(side <= 0 or side % tile_size for pair in resolutions for side in pair):
        raise _refused("image_grid_pinpoints", expected, pinpoints)
    return resolutions


def _fitted_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of the same shape inside `target`, the free side rounded up."""
    scale_x, scale_y = target[0] / size[0], target[1] / size[1]
    if scale_x < scale_y:
        return target[0], min(math.ceil(size[1] * scale_x), target[1])
    return min(math.ceil(size[0] * scale_y), target[0]), target[1]


def _resized(image: PilImage.Image, size: tuple[int, int]) -> PilImage.Image:
    """By bicubic interpolation, one direction after the other, since numbers are rounded between them.

    Which comes first depends on Pillow's version: before 13 the width. The reference data is of 13, which
    begins with the height if that shrinks by more than twice what the width loses.
    """
    (width, height), (new_width, new_height) = image.size, size
    lost = height - new_height
    between = (width, new_height) if lost > 0 and lost > 2 * (width - new_width) else (new_width, height)
    return image.resize(between, PilImage.Resampling.BICUBIC).resize(size, PilImage.Resampling.BICUBIC)


def _centred(image: PilImage.Image, size: tuple[int, int], colour: tuple[int, int, int]) -> PilImage.Image:
    """`image` in the middle of a canvas of this size and colour."""
    canvas = PilImage.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _unpadded(width: int, height: int, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(first, end) of the rows and of the columns of a map that show the picture and not padding."""
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return (padding, rows - padding), (0, columns)
    padding = (columns - int(width * (rows / height))) // 2
    return (0, rows), (padding, columns - padding)


def _refused(setting: str, expected: str, found: object) -> CheckpointError:
    return CheckpointError(f"config.json: {setting}: expected {expected}, found {found!r}")
