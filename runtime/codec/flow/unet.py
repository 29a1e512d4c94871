"""The flow's velocity estimator: a one-dimensional U-Net with transformer blocks (CosyVoice's
`ConditionalDecoder`, after Matcha-TTS, arXiv 2309.03199).

Module names are those of the checkpoint, below `decoder.estimator.`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import EstimatorParams
from antiphon.codec.flow.attention import attend
from antiphon.codec.layers.padding import masked
from antiphon.codec.stopping import stop_point
from antiphon.kernels.masked_group_norm import masked_group_norm

__all__ = ["TIME_SCALE", "UNet", "frequencies"]

NORM_GROUPS = 8
FEED_FORWARD_FACTOR = 4
TIME_FACTOR = 4
TIME_SCALE = 1000.0


class Block(nn.Module):
    """mish(GN8(conv3(x * m))) * m"""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(in_channels, out_channels, 3, padding=1), nn.GroupNorm(NORM_GROUPS, out_channels)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        conv, norm = self.block
        assert isinstance(norm, nn.GroupNorm), "block.1 is built as a GroupNorm"
        h = conv(masked(x, mask))
        return masked_group_norm(h, norm.weight, norm.bias, norm.num_groups, norm.eps, mask)


class ResNet(nn.Module):
    """Two blocks with the time's bias between them, and a 1x1 convolution around them."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_channels, out_channels))
        self.block1 = Block(in_channels, out_channels)
        self.block2 = Block(out_channels, out_channels)
        self.res_conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time_bias: Tensor, mask: Tensor | None) -> Tensor:
        h = self.block1(x, mask) + time_bias[:, None]
        out: Tensor = self.block2(h, mask) + self.res_conv(masked(x, mask))
        return out


class Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x), self.num_heads, mask))
        return out


class GeluProjection(nn.Module):
    """Linear, then the exact GELU: the tanh approximation is wrong by 1.5e-4 in the mel."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = FEED_FORWARD_FACTOR * channels
        # Place 1 is dropout in training; the Identity keeps the name `net.2` for the last layer.
        self.net = nn.Sequential(GeluProjection(channels, hidden), nn.Identity(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class Transformer(nn.Module):
    """Pre-norm self-attention and feed-forward on (batch, frames, channels)."""

    def __init__(self, channels: int, params: EstimatorParams) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, params.num_heads, params.attention_head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Resample(nn.Module):
    """Halves the frames (stride-2 convolution) or doubles them (transposed convolution)."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.conv: nn.Module = (
            nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)
            if up
            else nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Stage(nn.ModuleList):
    """One level: `0` is the ResNet, `1` the transformers, `2` leads to the next level (not in the middle)."""

    def __init__(
        self, in_channels: int, out_channels: int, params: EstimatorParams, leave: nn.Module | None = None
    ) -> None:
        resnet = ResNet(in_channels, out_channels, time_channels(params))
        transformers = nn.ModuleList(Transformer(out_channels, params) for _ in range(params.n_blocks))
        super().__init__([resnet, transformers] if leave is None else [resnet, transformers, leave])
        self.out_channels = out_channels

    def time_bias(self, embedding: Tensor) -> Tensor:
        resnet = self[0]
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        bias: Tensor = resnet.mlp(embedding)
        return bias

    def forward(self, x: Tensor, time_bias: Tensor, mask: Tensor | None) -> Tensor:
        x = self[0](x, time_bias, mask).transpose(1, 2).contiguous()
        for transformer in self[1].children():
            stop_point()
            x = transformer(x, mask)
        return x.transpose(1, 2)

    def leave(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """To the next level; separate from `forward`, since the skip is taken in between."""
        out: Tensor = self[2](masked(x, mask))
        return out


class UNet(nn.Module):
    """Velocity at (x, t): input (batch, in_channels, frames), output (batch, out_channels, frames).

    Channels of the input, in order: x, mu, the speaker on every frame, the mel condition. Time enters
    as `time_bias(t)`, which depends only on t and is computed once for the ten fixed times.
    """

    def __init__(self, params: EstimatorParams) -> None:
        super().__init__()
        self.params = params
        wide, deep = params.channels
        time = time_channels(params)
        self.time_mlp = nn.ModuleDict(
            {"linear_1": nn.Linear(params.in_channels, time), "linear_2": nn.Linear(time, time)}
        )
        self.down_blocks = nn.ModuleList(
            [
                Stage(params.in_channels, wide, params, Resample(wide, up=False)),
                Stage(wide, deep, params, nn.Conv1d(deep, deep, 3, padding=1)),
            ]
        )
        self.mid_blocks = nn.ModuleList(Stage(deep, deep, params) for _ in range(params.num_mid_blocks))
        self.up_blocks = nn.ModuleList(
            [
                Stage(2 * deep, wide, params, Resample(wide, up=True)),
                Stage(2 * wide, wide, params, nn.Conv1d(wide, wide, 3, padding=1)),
            ]
        )
        self.final_block = Block(wide, wide)
        self.final_proj = nn.Conv1d(wide, params.out_channels, 1)

    def time_bias(self, t: Tensor) -> Tensor:
        """What the ResNets add at times `t` (steps,): (steps, their channels one after the other)."""
        angles = TIME_SCALE * t[:, None] * frequencies(self.params, t.device)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        embedding = self.time_mlp["linear_2"](F.silu(self.time_mlp["linear_1"](features)))
        return torch.cat([stage.time_bias(embedding) for stage in self._stages()], dim=-1)

    def forward(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """`time_bias`: one row of `time_bias(t)`. `mask`: (batch, 1, frames) of 0 and 1; None: all valid."""
        stages = list(self._stages())
        biases = iter(torch.split(time_bias, [stage.out_channels for stage in stages]))
        down, mid, up = stages[:2], stages[2:-2], stages[-2:]
        half_mask = None if mask is None else mask[:, :, ::2]
        skips = []
        for stage, at in zip(down, (mask, half_mask), strict=True):
            x = stage(x, next(biases), at)
            skips.append(x)
            x = stage.leave(x, at)
        for stage in mid:
            x = stage(x, next(biases), half_mask)
        for stage, at in zip(up, (half_mask, mask), strict=True):
            skip = skips.pop()
            # If the number of frames is odd, the lower level returns one too many.
            x = stage(torch.cat([x[:, :, : skip.shape[2]], skip], dim=1), next(biases), at)
            x = stage.leave(x, at)
        x = self.final_block(x, mask)
        return masked(self.final_proj(masked(x, mask)), mask)

    def _stages(self) -> Iterator[Stage]:
        for stages in (self.down_blocks, self.mid_blocks, self.up_blocks):
            for stage in stages:
                assert isinstance(stage, Stage), "every level is built as a Stage"
                yield stage


def time_channels(params: EstimatorParams) -> int:
    return TIME_FACTOR * params.channels[0]


def frequencies(params: EstimatorParams, device: torch.device | None = None) -> Tensor:
    """(in_channels / 2,): those of the sines that embed time."""
    half = params.in_channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    return torch.exp(steps * (-math.log(10000) / (half - 1)))
