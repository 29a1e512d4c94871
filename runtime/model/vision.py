"""Pictures as the LLM reads them: SigLIP tower, projector, and the merging of an image's tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.config import ModelConfig, VisionConfig
from antiphon.model.weights import OmniWeights, ProjectorWeights, VisionLayerWeights, VisionWeights

if TYPE_CHECKING:
    from antiphon.prompt import PreparedImage

__all__ = ["image_features", "merge_features"]

_TILES_PER_PASS = 8
"""Bounds the memory of a pass: the MLP of a released layer takes 6 MB per tile in 16 bits. With 729 features
per tile, the products are large enough to be bound by arithmetic from the first tile on."""


def image_features(weights: OmniWeights, config: ModelConfig, tiles: Tensor) -> Tensor:
    """Projected features of tiles, of one image or of several.

    `tiles`: uint8 (n, image_size, image_size, 3), on any device. Returns (n, side * side, hidden) in
    the dtype and on the device of the weights.
    """
    tower, projector = weights.vision, weights.projector
    assert config.vision is not None, "pictures are refused where there is no vision tower"
    assert tower is not None, "a config with a vision tower needs its weights"
    assert projector is not None, "a config with a vision tower needs the projector"
    device = tower.patch_embedding.device
    features = []
    for start in range(0, max(len(tiles), 1), _TILES_PER_PASS):
        part = tiles[start : start + _TILES_PER_PASS].to(device)
        features.append(_project(projector, _encode(tower, config.vision, part)))
    return torch.cat(features)


def merge_features(features: Tensor, image: PreparedImage, newline: Tensor | None) -> Tensor:
    """The features of one image in the order of its positions.

    `features`: (tiles, side * side, hidden), as `image_features` gives them. `newline`: (hidden), the
    row separator; only plans with a grid need it. Returns (image.num_positions, hidden).
    """
    plan = image.plan
    if plan.grid is None:
        return features.flatten(0, 1)
    assert newline is not None, "merge type spatial_unpad needs image_newline"
    rows, columns = plan.grid
    side, hidden = plan.side, features.shape[-1]
    grid = features[1:].reshape(rows, columns, side, side, hidden).transpose(1, 2)
    grid = grid.reshape(rows * side, columns * side, hidden)
    grid = grid[slice(*plan.kept_rows), slice(*plan.kept_columns)]
    if plan.shrunk is not None:
        planes = grid.permute(2, 0, 1)[None].float()
        planes = F.interpolate(planes, plan.shrunk, mode="bilinear", align_corners=False, antialias=False)
        grid = planes[0].permute(1, 2, 0).to(features.dtype)
    separators = newline.expand(grid.shape[0], 1, hidden)
    return torch.cat([features[0], torch.cat([grid, separators], dim=1).flatten(0, 1)])


def _encode(tower: VisionWeights, config: VisionConfig, tiles: Tensor) -> Tensor:
    """Output of the tower's last kept layer, without the post-norm: (n, side * side, tower hidden)."""
    dtype = tower.patch_embedding.dtype
    pixels = ((tiles.float() / 255 - 0.5) / 0.5).to(dtype).permute(0, 3, 1, 2)
    x = F.conv2d(pixels, tower.patch_embedding, tower.patch_embedding_bias, stride=config.patch_size)
    x = x.flatten(2).transpose(1, 2) + tower.position_embedding
    for layer in tower.layers:
        x = _encoder_layer(layer, config, x)
    return x


def _encoder_layer(layer: VisionLayerWeights, config: VisionConfig, x: Tensor) -> Tensor:
    num_tiles, num_features, hidden = x.shape
    # Whatever the dtype, layer_norm computes in float32 inside, and so does attention's softmax.
    y = F.layer_norm(x, (hidden,), layer.norm1, layer.norm1_bias, config.layer_norm_eps)
    qkv = F.linear(y, layer.qkv, layer.qkv_bias)
    qkv = qkv.view(num_tiles, num_features, 3, config.num_attention_heads, config.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(num_tiles, num_features, hidden)
    x = x + F.linear(y, layer.out, layer.out_bias)
    y = F.layer_norm(x, (hidden,), layer.norm2, layer.norm2_bias, config.layer_norm_eps)
    y = F.gelu(F.linear(y, layer.fc1, layer.fc1_bias), approximate="tanh")
    return x + F.linear(y, layer.fc2, layer.fc2_bias)


def _project(projector: ProjectorWeights, x: Tensor) -> Tensor:
    x = F.gelu(F.linear(x, projector.fc1, projector.fc1_bias))
    return F.linear(x, projector.fc2, projector.fc2_bias)
