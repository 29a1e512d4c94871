"""What a Stream-Omni checkpoint makes of pictures, one at a time and in float64.

The tiling and merging of LLaVA-OneVision (arXiv 2408.03326) and the SigLIP tower, written without regard to
speed and without a line of the code it is compared with.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PilImage
from torch import Tensor

__all__ = ["ReferenceVision"]

TOWER = "model.vision_tower.vision_tower.vision_model."
SO400M = {
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
}

Size = tuple[int, int]


class ReferenceVision:
    """`weights`: all tensors of the checkpoint, by name."""

    def __init__(self, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        file = folder / config["mm_vision_tower"] / "config.json"
        tower = json.loads(file.read_text()) if file.is_file() else {}
        self.tower: dict[str, Any] = SO400M | tower
        self.config = config
        self.weights = weights
        self.size: int = self.tower["image_size"]
        self.side = self.size // self.tower["patch_size"]

    def features(self, picture: PilImage.Image) -> Tensor:
        """What stands for a picture in the LLM's input: (positions, hidden)."""
        picture = picture.convert("RGB")
        if self.config["image_aspect_ratio"] == "pad":
            side = max(picture.size)
            mean = int(0.5 * 255)
            return self.project(self.resized(pasted(picture, (side, side), (mean, mean, mean))))
        grid = self.best_resolution(picture.size)
        wide, high = grid[0] // self.size, grid[1] // self.size
        canvas = pasted(picture.resize(fitted(picture.size, grid)), grid, (0, 0, 0))
        whole = self.project(self.resized(picture))
        parts = [
            self.project(canvas.crop((x, y, x + self.size, y + self.size)))
            for y in range(0, grid[1], self.size)
            for x in range(0, grid[0], self.size)
        ]
        if self.config.get("mm_patch_merge_type", "flat") == "flat":
            return torch.cat([whole, *parts])
        rows = []
        for j in range(high):
            tiles = [part.view(self.side, self.side, -1) for part in parts[j * wide : (j + 1) * wide]]
            rows.append(torch.cat(tiles, dim=1))
        return torch.cat([whole, self.merged(torch.cat(rows), picture.size)])

    # --- tiles ----------------------------------------------------------------------------------

    def resolutions(self) -> list[Size]:
        """The (width, height) in pixels that a picture may be fitted into."""
        pinpoints = self.config["image_grid_pinpoints"]
        if not isinstance(pinpoints, str):
            return [(width, height) for width, height in pinpoints]
        pairs = [(int(i), int(j)) for i, j in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        first, last = pairs[0], pairs[-1]
        return [
            (i * self.size, j * self.size)
            for i in range(first[0], last[0] + 1)
            for j in range(first[1], last[1] + 1)
        ]

    def best_resolution(self, picture: Size) -> Size:
        best, best_effective, least_waste = (0, 0), -1, 0
        for width, height in self.resolutions():
            scale = min(width / picture[0], height / picture[1])
            area = int(picture[0] * scale) * int(picture[1] * scale)
            effective = min(area, picture[0] * picture[1])
            waste = width * height - effective
            if effective > best_effective or (effective == best_effective and waste < least_waste):
                best, best_effective, least_waste = (width, height), effective, waste
        return best

    def merged(self, grid: Tensor, picture: Size) -> Tensor:
        """(rows, columns, hidden) of all parts -> (positions, hidden), without the padding."""
        rows, columns, _ = grid.shape
        width, height = picture
        if width / height > columns / rows:
            padding = (rows - int(height * (columns / width))) // 2
            grid = grid[padding : rows - padding]
        else:
            padding = (columns - int(width * (rows / height))) // 2
            grid = grid[:, padding : columns - padding]
        most = re.fullmatch(r"anyres_max_(\d+)", self.config["image_aspect_ratio"])
        if most:
            rows, columns, _ = grid.shape
            times = math.sqrt(rows * columns / (int(most[1]) * self.side**2))
            if times > 1.1:
                planes = grid.permute(2, 0, 1)[None]
                planes = F.interpolate(planes, [int(rows // times), int(columns // times)], mode="bilinear")
                grid = planes[0].permute(1, 2, 0)
        newline = self.weights["model.image_newline"].expand(len(grid), 1, -1)
        return torch.cat([grid, newline], dim=1).flatten(0, 1)

    def resized(self, picture: PilImage.Image) -> PilImage.Image:
        return picture.resize((self.size, self.size), PilImage.Resampling.BICUBIC)

    # --- one tile through the tower ---------------------------------------------------------------

    def project(self, tile: PilImage.Image) -> Tensor:
        """(side * side, hidden)"""
        x = self.encode(tile)
        x = F.gelu(self.linear("model.mm_projector.0", x))
        return self.linear("model.mm_projector.2", x)

    def encode(self, tile: PilImage.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(tile)).double().permute(2, 0, 1)
        pixels = (pixels / 255 - 0.5) / 0.5
        patch, side, eps = self.tower["patch_size"], self.side, self.tower["layer_norm_eps"]
        patches = [
            pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
            for y in range(side)
            for x in range(side)
        ]
        kernel = self.weights[TOWER + "embeddings.patch_embedding.weight"].flatten(1)
        x = torch.stack(patches) @ kernel.T + self.weights[TOWER + "embeddings.patch_embedding.bias"]
        x = x + self.weights[TOWER + "embeddings.position_embedding.weight"]
        for i in range(self.tower["num_hidden_layers"] - 1):
            layer = f"{TOWER}encoder.layers.{i}."
            x = x + self.attention(layer + "self_attn.", self.norm(layer + "layer_norm1", x, eps))
            y = self.linear(layer + "mlp.fc1", self.norm(layer + "layer_norm2", x, eps))
            x = x + self.linear(layer + "mlp.fc2", F.gelu(y, approximate="tanh"))
        return x

    def attention(self, name: str, x: Tensor) -> Tensor:
        heads = self.tower["num_attention_heads"]
        q, k, v = (self.linear(f"{name}{kind}_proj", x).view(len(x), heads, -1) for kind in "qkv")
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        return self.linear(name + "out_proj", mixed.reshape(len(x), -1))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def pasted(picture: PilImage.Image, size: Size, colour: tuple[int, int, int]) -> PilImage.Image:
    canvas = PilImage.new("RGB", size, colour)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas


def fitted(picture: Size, grid: Size) -> Size:
    scale_x, scale_y = grid[0] / picture[0], grid[1] / picture[1]
    if scale_x < scale_y:
        return grid[0], min(math.ceil(picture[1] * scale_x), grid[1])
    return min(math.ceil(picture[0] * scale_y), grid[0]), grid[1]
