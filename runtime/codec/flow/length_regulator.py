"""Units to mel frames: linear interpolation, then convolutions (CosyVoice's `InterpolateRegulator`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import HOP, SAMPLE_RATE_HZ, FlowParams
from antiphon.codec.layers.padding import group_norm, masked

__all__ = ["LengthRegulator", "interpolate", "interpolate_span", "interpolate_units"]

EDGE_UNITS = 20
"""Units at either end that keep their own pace, so that a chunk's ends line up with the whole's."""


def interpolate_units(hidden: Tensor, params: FlowParams) -> Tensor:
    """Stretches units (n, channels) to their mel frames: (channels, params.mel_frames(n)).

    Beyond 40 units, the first and the last 20 are each stretched separately, to a fixed number of frames.
    """
    n, frames = hidden.shape[0], params.mel_frames(hidden.shape[0])
    if n <= 2 * EDGE_UNITS:
        return interpolate(hidden, frames)
    edge = params.mel_frames(EDGE_UNITS)
    parts = (
        interpolate(hidden[:EDGE_UNITS], edge),
        interpolate(hidden[EDGE_UNITS:-EDGE_UNITS], frames - 2 * edge),
        interpolate(hidden[-EDGE_UNITS:], edge),
    )
    return torch.cat(parts, dim=1)


def interpolate_span(hidden: Tensor, first: int, params: FlowParams) -> Tensor:
    """Units `first` .. `first + n - 1` of a stream (n, channels) to their frames (channels, frames).

    Frame f samples position (f + 0.5) u - 0.5 among all units, where u is the number of units per frame: so
    chunks agree on where a frame lies. In a whole utterance, frames lie within one of there
    (`interpolate_units`).
    """
    n = hidden.shape[0]
    begin, end = params.mel_frames(first), params.mel_frames(first + n)
    units_per_frame = params.input_frame_rate * HOP / SAMPLE_RATE_HZ
    frame = torch.arange(begin, end, dtype=torch.float64, device=hidden.device)
    position = ((frame + 0.5) * units_per_frame - 0.5 - first).clamp(0, n - 1)
    left = position.long()
    right = (left + 1).clamp(max=n - 1)
    weight = (position - left).to(hidden.dtype)[:, None]
    return torch.lerp(hidden[left], hidden[right], weight).mT


def interpolate(hidden: Tensor, frames: int) -> Tensor:
    """(n, channels) to (channels, frames): output i samples position max((i + 0.5) n / frames - 0.5, 0)."""
    return F.interpolate(hidden.mT[None], size=frames, mode="linear", align_corners=False)[0]


class LengthRegulator(nn.Module):
    """Smooths interpolated units (batch, channels, frames). The norms look at all valid frames."""

    def __init__(self, channels: int, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.model:
            x = group_norm(x, layer, mask) if isinstance(layer, nn.GroupNorm) else layer(masked(x, mask))
        return masked(x, mask)
