"""Speech to units: a small network that keeps what is said and drops who says it.

The units are a grid of 8 x 5 x 5 x 5 points (finite scalar quantization, arXiv 2309.15505), 25 a second. What
trains them is being read: sounds by CTC (Graves et al., 2006), and the mel of the speaking voice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.analysis.logmel import NUM_BANDS

__all__ = ["LEVELS", "NUM_UNITS", "UnitEncoder", "UnitReader", "quantize", "unit_coordinates", "unit_numbers"]

LEVELS = (8, 5, 5, 5)
NUM_UNITS = 1000
WIDTH = 192
HIDDEN = 512
NUM_HEADS = 4
NUM_BLOCKS = 5
SPAN = 7
"""Units that a block's convolution sees."""
SLOPES = (1.0, 0.25, 0.06, 0.0)
"""By how much each head's attention falls off per unit: from the next sounds to the whole clip."""
OCTAVES = (1, 2, 4)
"""Of the waves that the reader sees a coordinate as, besides the number."""
FLOOR = 1.0
"""Bands are cut off this far (40 dB) below their mean: what lies deeper is the room."""


class Block(nn.Module):
    """Attention, a convolution over neighbours and a feed-forward network, each around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.near = nn.Conv1d(WIDTH, WIDTH, SPAN, padding=SPAN // 2, groups=WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """x: (batch, n, WIDTH); bias: (batch, heads, n, n); mask: (batch, n, 1), 0 on padding."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // NUM_HEADS) ** -0.5 + bias, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        near = self.near((self.norm2(x) * mask).transpose(1, 2)).transpose(1, 2)
        x = x + self.mix(F.gelu(near))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm3(x))))
        return out


class UnitEncoder(nn.Module):
    """Log-mel (batch, 128, frames) to a point of the grid's space for each unit, before it is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = nn.Conv1d(NUM_BANDS, WIDTH, 3, stride=2, padding=1)
        self.stem2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(LEVELS))
        # Forty sounds do not fit into four dimensions by a linear map.
        self.bend_up = nn.Linear(WIDTH, 2 * WIDTH)
        self.bend_down = nn.Linear(2 * WIDTH, len(LEVELS))
        nn.init.zeros_(self.bend_down.weight)
        nn.init.zeros_(self.bend_down.bias)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """lengths: (batch,) valid frames. Returns (batch, ceil(frames / 4), 4) in -1 to 1."""
        return self.points(self.hidden(features, lengths))

    def points(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., WIDTH) to points (..., 4)."""
        x = self.head(hidden) + self.bend_down(F.gelu(self.bend_up(hidden)))
        # Between -1 and 1, and even where its input is normally distributed.
        return 2 * torch.sigmoid(1.6 * x.float()) - 1

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, ceil(frames / 4), WIDTH)"""
        frames = torch.arange(features.shape[2], device=features.device)
        valid = (frames[None] < lengths[:, None]).to(features.dtype)[:, None]
        x = levelled(features, valid)
        x = F.gelu(self.stem1(x)) * valid[:, :, ::2]
        valid = valid[:, :, ::4]
        x = (F.gelu(self.stem2(x)) * valid).transpose(1, 2)
        mask = valid.transpose(1, 2)
        units = torch.arange(x.shape[1], device=x.device)
        distance = (units[None] - units[:, None]).abs().to(x.dtype)
        slopes = torch.tensor(SLOPES, dtype=x.dtype, device=x.device)
        bias = -slopes[:, None, None] * distance + (valid[:, :, None] - 1) * 1e4
        for block in self.blocks:
            x = block(x, bias, mask)
        out: Tensor = self.norm(x)
        return out


def levelled(features: Tensor, valid: Tensor) -> Tensor:
    """Each band against its own mean over the louder frames, so that neither the level nor the colour of
    voice, microphone and room matter."""
    loudness = features.mean(1, keepdim=True)
    count = valid.sum(2, keepdim=True)
    middle = (loudness * valid).sum(2, keepdim=True) / count
    highest = (loudness - 10 * (1 - valid)).amax(2, keepdim=True)
    weight = torch.sigmoid(12 * (loudness - (middle + highest) / 2)) * valid
    mean = (features * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1e-3)
    return 2 * (features - mean).clamp(min=-FLOOR) * valid


def quantize(points: Tensor, noise: Tensor | None = None) -> Tensor:
    """Points (..., 4) in -1 to 1 to the nearest of the grid, as if rounding had slope 1.

    noise: (...,) uniform in 0 to 1; where it is below a half the point is moved by as much as rounding might
    instead, which trains the encoder without a step in its way.
    """
    levels = torch.tensor(LEVELS, dtype=points.dtype, device=points.device)
    half = (levels - 1) / 2
    moved = torch.round((points + 1) * half) / half - 1
    rounded = points + (moved - points).detach()
    if noise is None:
        return rounded
    shaken = points + (torch.rand_like(points) - 0.5) / half
    return torch.where(noise[..., None] < 0.5, shaken, rounded)


def unit_numbers(points: Tensor) -> Tensor:
    """Points (..., 4) to unit numbers (...) int64."""
    levels = torch.tensor(LEVELS, dtype=points.dtype, device=points.device)
    digits = torch.round((points + 1) * (levels - 1) / 2).long()
    return ((digits[..., 0] * 5 + digits[..., 1]) * 5 + digits[..., 2]) * 5 + digits[..., 3]


def unit_coordinates() -> Tensor:
    """Where each unit lies on the grid: (1000, 4) in -1 to 1."""
    number = torch.arange(NUM_UNITS)
    digits = torch.stack([number // 125, number // 25 % 5, number // 5 % 5, number % 5], dim=1)
    return digits * 2 / (torch.tensor(LEVELS) - 1) - 1


class UnitReader(nn.Module):
    """What units are trained to tell: read from each with two neighbours on either side."""

    def __init__(self, num_phones: int) -> None:
        super().__init__()
        self.embed = nn.Linear(len(LEVELS) * (1 + 2 * len(OCTAVES)), WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.conv1 = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.tell = UnitTelling(num_phones)
        self.mel = nn.Linear(WIDTH, 2 * NUM_BANDS)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points: (batch, n, 4). Returns what `UnitTelling` does, and the mel (batch, 2n, 128)."""
        waves = [wave(torch.pi * octave * points) for octave in OCTAVES for wave in (torch.sin, torch.cos)]
        x = F.gelu(self.embed(torch.cat([points, *waves], dim=-1)))
        x = (x + self.down(F.gelu(self.up(x)))).transpose(1, 2)
        x = x + F.gelu(self.conv1(x))
        x = (x + F.gelu(self.conv2(x))).transpose(1, 2)
        return *self.tell(x), two_each(self.mel(x))


class UnitTelling(nn.Module):
    """Sounds told from one state for each unit, at 50 a second."""

    def __init__(self, num_phones: int) -> None:
        super().__init__()
        self.phones = nn.Linear(WIDTH, 2 * (num_phones + 1))
        self.frames = nn.Linear(WIDTH, 2 * num_phones)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (batch, n, WIDTH). Returns logits of sounds and blank (the last) for CTC, and of the sound that
        is being said, (batch, 2n, ...)."""
        return two_each(self.phones(x)), two_each(self.frames(x))


def two_each(x: Tensor) -> Tensor:
    """(batch, n, 2c) to (batch, 2n, c)"""
    halves: Tensor = x.unflatten(2, (2, -1))
    return halves.flatten(1, 2)
