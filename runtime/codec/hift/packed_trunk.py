"""HiFT's trunk with packed weights: the same function as `Hift.plain_trunk`, for convolutions in bfloat16,
and for a CPU without our C++ kernels, by which `cpp_trunk.py` is faster.

Everything is laid out as (batch, frames, channels). Only convolutions compute in `dtype`: in bfloat16 the
residual streams stay float32, and so does Snake, whose sine needs a precise phase.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import RESBLOCK_KERNELS, UPSAMPLE_RATES
from antiphon.codec.hift.hift import LAST_SLOPE, Hift, ResBlock, Snake
from antiphon.codec.layers.packed import PackedConv
from antiphon.codec.layers.padding import frame_mask, masked
from antiphon.codec.stopping import stop_point
from antiphon.kernels.snake import snake

__all__ = ["PackedTrunk"]


class PackedTrunk:
    """`Hift.trunk`, to float32's rounding if `dtype` is float32.

    In bfloat16, log-magnitudes and phases are off by 5e-3 of the largest (random weights of the released
    size); the error follows the spectrum, 34 dB below it in the golden codec.
    """

    def __init__(self, hift: Hift, dtype: torch.dtype, *, onednn: bool | None = None) -> None:
        """onednn: None to use it if possible (`packed.has_onednn`). Weights are copied."""

        def convs(parts: nn.ModuleList) -> list[PackedConv]:
            return [
                PackedConv(part, dtype, onednn=onednn)
                for part in parts
                if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)
            ]

        def blocks(parts: nn.ModuleList) -> list[PackedResBlock]:
            return [
                PackedResBlock(part, dtype, convs(part.convs1), convs(part.convs2))
                for part in parts
                if isinstance(part, ResBlock)
            ]

        self.dtype = dtype
        self.slope = hift.params.lrelu_slope
        self.conv_pre = PackedConv(hift.conv_pre, dtype, onednn=onednn)
        self.conv_post = PackedConv(hift.conv_post, dtype, onednn=onednn)
        self.ups, self.source_downs = convs(hift.ups), convs(hift.source_downs)
        self.source_resblocks, self.resblocks = blocks(hift.source_resblocks), blocks(hift.resblocks)

    def __call__(self, mel: Tensor, source: Tensor, frames: Sequence[int]) -> Tensor:
        """Mel (batch, 80, T) and spectra (batch, 18, 64T + 1) to (batch, 18, 64T + 1), all float32; see
        `Hift.trunk`."""
        source = source.mT.to(self.dtype).contiguous()
        x = masked(self.conv_pre(mel.mT.to(self.dtype).contiguous()), mask_of(frames, mel.device))
        lengths = list(frames)
        for i, (up, rate) in enumerate(zip(self.ups, UPSAMPLE_RATES, strict=True)):
            last = i == len(self.ups) - 1
            lengths = [length * rate + last for length in lengths]
            mask = mask_of(lengths, mel.device)
            x = up(F.leaky_relu(x, self.slope)).float()
            if last:
                # Reflection by one frame on the left.
                x = torch.cat([x[:, 1:2], x], dim=1)
            excitation = masked(self.source_downs[i](source), mask).float()
            x = masked(x, mask) + self.source_resblocks[i](excitation, mask)
            own = self.resblocks[len(RESBLOCK_KERNELS) * i : len(RESBLOCK_KERNELS) * (i + 1)]
            total = own[0](x, mask)
            for block in own[1:]:
                total += block(x, mask)
            x = (total / len(RESBLOCK_KERNELS)).to(self.dtype)
        return self.conv_post(F.leaky_relu(x, LAST_SLOPE)).float().mT


class PackedResBlock:
    """(batch, frames, channels) float32 to the same"""

    def __init__(
        self, block: ResBlock, dtype: torch.dtype, convs1: list[PackedConv], convs2: list[PackedConv]
    ) -> None:
        self.convs1, self.convs2 = convs1, convs2
        self.snakes1, self.snakes2 = (
            [PackedSnake(snake, dtype) for snake in snakes if isinstance(snake, Snake)]
            for snakes in (block.activations1, block.activations2)
        )

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x.clone()
        for snake1, conv1, snake2, conv2 in zip(
            self.snakes1, self.convs1, self.snakes2, self.convs2, strict=True
        ):
            stop_point()
            h = snake2(masked(conv1(snake1(x)), mask).float())
            x = conv2.add_to(x, h) if mask is None else x + masked(conv2(h), mask)
        return x


class PackedSnake:
    """x + sin(alpha x)^2 / alpha of float32, to `dtype`"""

    def __init__(self, snake: Snake, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.alpha = snake.alpha

    def __call__(self, x: Tensor) -> Tensor:
        return snake(x.mT, self.alpha, out_dtype=self.dtype).mT


def mask_of(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """(batch, longest, 1)"""
    mask = frame_mask(lengths, device)
    return None if mask is None else mask.mT.contiguous()
