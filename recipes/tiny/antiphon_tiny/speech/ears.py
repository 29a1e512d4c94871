"""The encoder that the tokenizer file holds: Whisper's states, and what turns them into units.

Which units there are, and what each of them sounds like, the unit encoder has settled (`unit_encoder`) with
the speaking voice. This one finds the same units in the speech of all others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon_tiny.speech.unit_encoder import LEVELS
from antiphon_tiny.speech.whisper import WIDTH as STATE
from antiphon_tiny.speech.whisper import WhisperEncoder

__all__ = ["Ears"]

WIDTH = 256
SPAN = 5
"""Units that a convolution sees."""


class Ears(nn.Module):
    """Log-mel (batch, 128, frames) to a point of the grid's space for each unit, as `UnitEncoder` does."""

    def __init__(self) -> None:
        super().__init__()
        self.whisper = WhisperEncoder()
        self.join = nn.Conv1d(STATE, WIDTH, 2, stride=2)
        self.near1 = nn.Conv1d(WIDTH, WIDTH, SPAN, padding=SPAN // 2)
        self.near2 = nn.Conv1d(WIDTH, WIDTH, SPAN, padding=SPAN // 2)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(LEVELS))
        self.bend_up = nn.Linear(WIDTH, 2 * WIDTH)
        self.bend_down = nn.Linear(2 * WIDTH, len(LEVELS))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """lengths: (batch,) valid frames. Returns (batch, ceil(frames / 4), 4) in -1 to 1."""
        return self.points(self.whisper(features, lengths), lengths)

    def points(self, states: Tensor, lengths: Tensor) -> Tensor:
        """states: (batch, ceil(frames / 2), 384)"""
        x = F.gelu(self.join(F.pad(states.transpose(1, 2), (0, 1))))
        units = torch.arange(x.shape[2], device=states.device)
        mask = (units[None] * 4 < lengths[:, None]).to(states.dtype)[:, None]
        x = x * mask
        for near in (self.near1, self.near2):
            x = x + F.gelu(near(x)) * mask
        x = self.norm(x.transpose(1, 2))
        x = self.head(x) + self.bend_down(F.gelu(self.bend_up(x)))
        return 2 * torch.sigmoid(1.6 * x.float()) - 1
