from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_MODEL
from safetensors.torch import load_file
from torch import Tensor, nn

from antiphon.config import InputLimits, ModelConfig, VisionConfig
from antiphon.inputs.images import prepare_image
from antiphon.inputs.tiles import Tiler
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights
from antiphon.model.vision import image_features, merge_features
from antiphon.model.weights import OmniWeights, ProjectorWeights, VisionLayerWeights, VisionWeights
from antiphon.prompt import PreparedImage

GOLDEN = Path(__file__).parents[1] / "golden" / "omni_a"
CASES = [case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"] if case["images"]]


@dataclass(frozen=True)
class Tower:
    config: ModelConfig
    weights: OmniWeights

    def prepare(self, name: str) -> PreparedImage:
        return prepare_image(GOLDEN / "images" / f"{name}.png", Tiler(self.config), InputLimits())

    def features(self, image: PreparedImage) -> Tensor:
        return image_features(self.weights, self.config, torch.from_numpy(image.tiles))


@pytest.fixture(scope="module")
def tower() -> Tower:
    folder = RANDOM_MODEL
    config = read_config(folder)
    return Tower(config, load_weights(folder, config, device="cpu", dtype=torch.float32))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tensors.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_features(tower: Tower, golden: dict[str, Tensor], case: dict[str, Any]) -> None:
    """Projected features of all tiles of a request's images, those of several images in one pass."""
    tiles = np.concatenate([tower.prepare(name).tiles for name in case["images"]])
    features = image_features(tower.weights, tower.config, torch.from_numpy(tiles))
    torch.testing.assert_close(
        features.flatten(0, 1), golden[f"{case['name']}.image_features"], atol=1e-4, rtol=0
    )


def test_tiles_do_not_see_each_other(tower: Tower) -> None:
    """Whatever the number of tiles in a pass, also where there are none."""
    image = tower.prepare("big0")
    features = tower.features(image)
    alone = [tower.features(replace(image, tiles=image.tiles[i : i + 1])) for i in range(len(image.tiles))]
    torch.testing.assert_close(features, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert tower.features(replace(image, tiles=image.tiles[:0])).shape == (0, *features.shape[1:])


def test_features_by_definition() -> None:
    """Of another shape, with weights so large that every constant counts, against torch's own layers."""
    vision = VisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=12,
        patch_size=4,
        layer_norm_eps=0.1,
    )
    torch.manual_seed(0)
    patches = nn.Conv2d(3, 24, 4, stride=4)
    positions = torch.randn(9, 24)
    layers = [
        nn.TransformerEncoderLayer(
            24, 3, 40, 0.0, nn.GELU("tanh"), layer_norm_eps=0.1, batch_first=True, norm_first=True
        )
        for _ in range(3)
    ]
    projector = nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 16))
    for parameter in nn.ModuleList([patches, *layers, projector]).parameters():
        nn.init.normal_(parameter, std=0.5)
    tiles = torch.randint(0, 256, (11, 12, 12, 3), dtype=torch.uint8)
    with torch.no_grad():
        x = patches(tiles.permute(0, 3, 1, 2) / 127.5 - 1).flatten(2).mT + positions
        for layer in layers:
            x = layer(x)
        expected = projector(x)
        features = _image_features(vision, patches, positions, layers, projector, tiles)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def _image_features(
    vision: VisionConfig,
    patches: nn.Conv2d,
    positions: Tensor,
    layers: list[nn.TransformerEncoderLayer],
    projector: nn.Sequential,
    tiles: Tensor,
) -> Tensor:
    """`image_features` with the weights of these modules."""
    weight, bias = patches.parameters()
    tower = VisionWeights(
        weight,
        bias,
        positions,
        [
            VisionLayerWeights(
                *layer.norm1.parameters(),
                *layer.self_attn.parameters(),
                *layer.norm2.parameters(),
                *layer.linear1.parameters(),
                *layer.linear2.parameters(),
            )
            for layer in layers
        ],
    )
    weights = cast(
        OmniWeights, SimpleNamespace(vision=tower, projector=ProjectorWeights(*projector.parameters()))
    )
    return image_features(weights, cast(ModelConfig, SimpleNamespace(vision=vision)), tiles)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(tower: Tower, dtype: torch.dtype) -> None:
    folder = RANDOM_MODEL
    weights = load_weights(folder, tower.config, device="cpu", dtype=dtype)
    image = tower.prepare("p2")
    exact = tower.features(image)
    features = image_features(weights, tower.config, torch.from_numpy(image.tiles))
    assert features.dtype == dtype
    error = (features.float() - exact).norm() / exact.norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_pixels_beyond_the_last_patch_are_not_seen(tower: Tower) -> None:
    """As in the released tower, of 384 pixels in patches of 14."""
    size, patch = 224, 32
    config = replace(tower.config, vision=replace(tower.config.vision or VisionConfig(), image_size=size + 5))
    tiles = torch.randint(0, 256, (2, size + 5, size + 5, 3), dtype=torch.uint8)
    assert config.vision is not None
    assert config.vision.side == size // patch
    expected = image_features(tower.weights, tower.config, tiles[:, :size, :size].contiguous())
    torch.testing.assert_close(image_features(tower.weights, config, tiles), expected)


# --- the merge ------------------------------------------------------------------------------------


def merged_by_definition(
    features: Tensor, config: ModelConfig, size: tuple[int, int], newline: Tensor
) -> Tensor:
    """LLaVA-NeXT's merge of one image's tiles: `size` is (width, height) of the picture in pixels."""
    if config.image_aspect_ratio == "pad" or config.mm_patch_merge_type == "flat":
        return features.flatten(0, 1)
    rows, columns = Tiler(config).plan(*size).grid or (0, 0)
    side = math.isqrt(features.shape[1])
    grid = features[1:].view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3)
    grid = grid.flatten(1, 2).flatten(2, 3)
    _, height, width = grid.shape
    if size[0] / size[1] > width / height:
        cut = (height - int(size[1] * (width / size[0]))) // 2
        grid = grid[:, cut : height - cut]
    else:
        cut = (width - int(size[0] * (height / size[1]))) // 2
        grid = grid[:, :, cut : width - cut]
    if match := re.match(r"anyres_max_(\d+)", config.image_aspect_ratio):
        _, height, width = grid.shape
        times = math.sqrt(height * width / (int(match[1]) * side**2))
        if times > 1.1:
            shape = [int(height // times), int(width // times)]
            grid = torch.nn.functional.interpolate(grid[None], shape, mode="bilinear")[0]
    grid = torch.cat([grid, newline[:, None, None].expand(-1, grid.shape[1], 1)], dim=2)
    return torch.cat([features[0], grid.flatten(1, 2).T])


@pytest.mark.parametrize("ratio", ["anyres", "anyres_max_1", "anyres_max_9", "pad"])
@pytest.mark.parametrize("merge", ["flat", "spatial_unpad"])
def test_merge(tower: Tower, ratio: str, merge: str) -> None:
    config = replace(
        tower.config,
        vision=VisionConfig(image_size=20, patch_size=4),
        image_aspect_ratio=ratio,
        mm_patch_merge_type=merge,
        image_grid_pinpoints="(1x1),(6x6)",
    )
    tiler = Tiler(config)
    newline = torch.full((3,), -1.0)
    for size in [(1, 1), (1, 300), (300, 1), (20, 20), (120, 90), (70, 170), (99, 31), (33, 64)]:
        image = prepare_image(np.zeros((size[1], size[0], 3), np.uint8), tiler, InputLimits())
        features = torch.randn(len(image.tiles), 25, 3)
        merged = merge_features(features, image, newline)
        assert merged.shape == (image.num_positions, 3)
        torch.testing.assert_close(merged, merged_by_definition(features, config, size, newline))


@pytest.mark.parametrize("name", ["p0", "p1", "p2", "p3", "p4", "big0", "big1"])
def test_merge_of_golden_pictures(tower: Tower, name: str) -> None:
    image = tower.prepare(name)
    features = tower.features(image)
    merged = merge_features(features, image, tower.weights.image_newline)
    assert merged.shape == (image.num_positions, tower.config.hidden_size)
    assert torch.equal(merged[: features.shape[1]], features[0])


def test_merge_in_sixteen_bits(tower: Tower) -> None:
    image = tower.prepare("big0")
    assert image.plan.shrunk is not None
    features, newline = tower.features(image), torch.ones(tower.config.hidden_size)
    exact = merge_features(features, image, newline)
    merged = merge_features(features.bfloat16(), image, newline.bfloat16())
    assert merged.dtype == torch.bfloat16
    torch.testing.assert_close(merged.float(), exact, atol=2**-6, rtol=2**-6)
