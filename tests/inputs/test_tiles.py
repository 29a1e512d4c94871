"""The geometry, against a reading of its definition that moves real feature maps about."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from antiphon.config import ModelConfig, VisionConfig
from antiphon.errors import CheckpointError
from antiphon.inputs.tiles import Tiler

TILE, PATCH = 30, 7  # four features a side, and a rest of two pixels
SIZES = [(1, 1), (1, 400), (400, 1), (31, 29), (30, 30), (97, 61), (61, 97), (200, 199), (300, 45), (37, 222)]
GRIDS = "(1x1),(2x5),(6x6)"
PINPOINTS = ((60, 30), (30, 60), (60, 60), (90, 30))


@pytest.fixture(scope="module")
def small(config: ModelConfig) -> ModelConfig:
    return replace(config, vision=VisionConfig(image_size=TILE, patch_size=PATCH), image_grid_pinpoints=GRIDS)


def expected_positions(config: ModelConfig, width: int, height: int) -> int:
    """How many features are left, by doing it to a tensor."""
    side = TILE // PATCH
    if config.image_aspect_ratio == "pad":
        return side * side
    columns, rows = expected_grid(config, width, height)
    if config.mm_patch_merge_type == "flat":
        return (1 + columns * rows) * side * side
    grid = torch.zeros(1, rows * side, columns * side)
    if width / height > columns / rows:
        rows_left = int(height * (grid.shape[2] / width))
        cut = (grid.shape[1] - rows_left) // 2
        grid = grid[:, cut : grid.shape[1] - cut]
    else:
        columns_left = int(width * (grid.shape[1] / height))
        cut = (grid.shape[2] - columns_left) // 2
        grid = grid[:, :, cut : grid.shape[2] - cut]
    if match := re.match(r"anyres_max_(\d+)", config.image_aspect_ratio):
        _, h, w = grid.shape
        times = math.sqrt(h * w / (int(match[1]) * side**2))
        if times > 1.1:
            shape = [int(h // times), int(w // times)]
            grid = torch.nn.functional.interpolate(grid[None], shape, mode="bilinear")[0]
    with_newlines = torch.cat([grid, torch.ones(1, grid.shape[1], 1)], dim=2)
    return side * side + with_newlines.numel()


def expected_grid(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """(columns, rows), by going through all of them."""
    pinpoints = config.image_grid_pinpoints
    if isinstance(pinpoints, str):
        (a, b), *_, (c, d) = [tuple(map(int, pair)) for pair in re.findall(r"(\d+)x(\d+)", pinpoints)]
        grids = [(i * TILE, j * TILE) for i, j in itertools.product(range(a, c + 1), range(b, d + 1))]
    else:
        grids = list(pinpoints)
    best, most, least = grids[0], -1, math.inf
    for grid_width, grid_height in grids:
        scale = min(grid_width / width, grid_height / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        waste = grid_width * grid_height - shown
        if shown > most or (shown == most and waste < least):
            best, most, least = (grid_width, grid_height), shown, waste
    return best[0] // TILE, best[1] // TILE


@pytest.mark.parametrize("ratio", ["anyres", "anyres_max_1", "anyres_max_9", "pad"])
@pytest.mark.parametrize("merge", ["flat", "spatial_unpad"])
@pytest.mark.parametrize("pinpoints", [GRIDS, PINPOINTS])
def test_number_of_positions(
    small: ModelConfig, ratio: str, merge: str, pinpoints: str | tuple[tuple[int, int], ...]
) -> None:
    config = replace(
        small, image_aspect_ratio=ratio, mm_patch_merge_type=merge, image_grid_pinpoints=pinpoints
    )
    tiler = Tiler(config)
    for width, height in SIZES:
        plan = tiler.plan(width, height)
        assert plan.num_positions == expected_positions(config, width, height), (width, height)
        assert plan.num_positions <= tiler.most_positions
        assert tiler.cut(PilImage.new("RGB", (width, height))).shape == (plan.num_tiles, TILE, TILE, 3)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), limit=st.integers(1, 12))
def test_number_of_positions_of_any_size(small: ModelConfig, width: int, height: int, limit: int) -> None:
    config = replace(small, image_aspect_ratio=f"anyres_max_{limit}")
    tiler = Tiler(config)
    num_positions = tiler.plan(width, height).num_positions
    assert num_positions == expected_positions(config, width, height)
    assert num_positions <= tiler.most_positions


@pytest.mark.parametrize(
    ("size", "grid"), [((300, 200), (4, 6)), ((150, 420), (6, 3)), ((60, 60), (2, 2)), ((1, 1), (1, 1))]
)
def test_grids(small: ModelConfig, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """(rows, columns) of some pictures, found by hand: the least that shows all that there is to see."""
    assert Tiler(replace(small, image_grid_pinpoints="(1x1),(6x6)")).plan(*size).grid == grid


def test_sizes_are_those_of_floats(small: ModelConfig) -> None:
    """Four rows on paper are three in floats, in the order of operations that the model was trained with."""
    width, height, side = 343, 196, 7
    assert height * side / width == 4
    assert int(height * (side / width)) == 3
    config = replace(
        small, vision=VisionConfig(image_size=28, patch_size=4), image_grid_pinpoints=((28, 28),)
    )
    assert Tiler(config).plan(width, height).kept_rows == (2, 5)


def picture(width: int, height: int) -> PilImage.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PilImage.fromarray(pixels)


def resized(image: PilImage.Image, width: int, height: int) -> PilImage.Image:
    """As Pillow 13 does it; those before always began with the width."""
    height_is_first = image.height > height and image.height - height > 2 * (image.width - width)
    steps = [(image.width, height) if height_is_first else (width, image.height), (width, height)]
    for step in steps:
        image = image.resize(step, PilImage.Resampling.BICUBIC)
    return image


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_anyres(small: ModelConfig, size: tuple[int, int]) -> None:
    image = picture(*size)
    tiles = Tiler(small).cut(image)
    columns, rows = expected_grid(small, *size)
    width, height = columns * TILE, rows * TILE
    if width / size[0] < height / size[1]:
        fitted = resized(image, width, min(math.ceil(size[1] * (width / size[0])), height))
    else:
        fitted = resized(image, min(math.ceil(size[0] * (height / size[1])), width), height)
    canvas = PilImage.new("RGB", (width, height))
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    boxes = [(x, y, x + TILE, y + TILE) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    expected = [resized(image, TILE, TILE), *map(canvas.crop, boxes)]
    np.testing.assert_array_equal(tiles, np.stack([np.asarray(tile) for tile in expected]))


@pytest.mark.parametrize("size", SIZES)
def test_tile_of_pad(small: ModelConfig, size: tuple[int, int]) -> None:
    image = picture(*size)
    side = max(size)
    square = np.full((side, side, 3), 127, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = np.asarray(image)
    expected = np.asarray(PilImage.fromarray(square).resize((TILE, TILE), PilImage.Resampling.BICUBIC))
    tiles = Tiler(replace(small, image_aspect_ratio="pad")).cut(image)
    np.testing.assert_array_equal(tiles, expected[None])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_aspect_ratio", "square"),
        ("image_aspect_ratio", "anyres_max_0"),
        ("image_aspect_ratio", "anyres_max_9x"),
        ("mm_patch_merge_type", "spatial"),
        ("mm_patch_merge_type", "spatial_unpad_nobase"),
        ("image_grid_pinpoints", ""),
        ("image_grid_pinpoints", "(0x1),(2x2)"),
        ("image_grid_pinpoints", "(3x3),(1x1)"),
        ("image_grid_pinpoints", ()),
        ("image_grid_pinpoints", ((60, 31),)),
        ("image_grid_pinpoints", ((0, 30),)),
    ],
)
def test_unknown_settings_are_named(small: ModelConfig, setting: str, value: object) -> None:
    changes: dict[str, object] = {setting: value}
    with pytest.raises(CheckpointError, match=rf"config\.json: {setting}: expected .* found "):
        Tiler(replace(small, **changes))  # type: ignore[arg-type]
