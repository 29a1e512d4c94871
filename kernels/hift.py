"""The trunk of the vocoder HiFT on a CPU in one call, as csrc/cpu/hift.h computes it.

Between its layers, the interpreter's lock is neither given away nor asked for. A result depends neither on
the batch nor on the number of threads, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from antiphon.kernels.checks import address, check
from antiphon.kernels.kept_weights import Convolution, KeptWeights, check_lengths
from antiphon.kernels.snake import SNAKE_EPS

__all__ = ["CppHift", "HiftGeometry", "HiftLevel", "HiftResBlock"]

NUM_DILATIONS = 3


@dataclass(frozen=True, eq=False)
class HiftResBlock:
    """Three times x + conv2(snake2(conv1(snake1(x)))), conv1 dilated; all of an odd number of taps."""

    dilations: Sequence[int]
    alphas1: Sequence[Tensor]
    """(channels,) each"""
    alphas2: Sequence[Tensor]
    convs1: Sequence[Convolution]
    convs2: Sequence[Convolution]


@dataclass(frozen=True, eq=False)
class HiftLevel:
    """`rate` times as many frames. up: transposed, (in, channels, 2 * rate), with a stride of `rate` and half
    of that as padding. source_down: from the source's spectrum, (channels, spectrum, taps)."""

    rate: int
    up: Convolution
    source_down: Convolution
    source_stride: int
    source_padding: int
    source_block: HiftResBlock
    blocks: Sequence[HiftResBlock]


@dataclass(frozen=True)
class HiftGeometry:
    mel_bands: int
    base_channels: int
    spectrum: int
    """Channels of the source's spectrum, and of the result."""
    slope: float
    """Of the leaky ReLU before each `up`."""
    last_slope: float
    """Of that before the last convolution."""


class CppHift:
    """conv_pre; at each level the frames made by `up`, plus the source's block, through the mean of the
    blocks; conv_post. The last level has one frame more, a reflection at its beginning.

    Weights are copied, in float32. Raises ValueError naming the weight that does not fit.
    """

    def __init__(
        self,
        conv_pre: Convolution,
        levels: Sequence[HiftLevel],
        conv_post: Convolution,
        geometry: HiftGeometry,
    ) -> None:
        from antiphon.kernels import _C

        if not levels:
            raise ValueError("levels: expected at least one, got none")
        self.geometry = geometry
        self.rate = prod(level.rate for level in levels)
        self._kept = KeptWeights()
        base, spectrum = geometry.base_channels, geometry.spectrum
        channels = [base, *(_channels(f"levels[{i}]", level) for i, level in enumerate(levels))]
        pre_taps, post_taps = _odd("conv_pre", conv_pre), _odd("conv_post", conv_post)
        self._hift = _C.Hift(
            levels=[
                self._level(f"levels[{i}]", level, channels[i], channels[i + 1])
                for i, level in enumerate(levels)
            ],
            conv_pre=self._kept.product("conv_pre", conv_pre, (base, geometry.mel_bands, pre_taps)),
            pre_taps=pre_taps,
            conv_post=self._kept.product("conv_post", conv_post, (spectrum, channels[-1], post_taps)),
            post_taps=post_taps,
            mel_bands=geometry.mel_bands,
            base_channels=base,
            spectrum=spectrum,
            slope=geometry.slope,
            last_slope=geometry.last_slope,
        )

    def __call__(
        self,
        mel: Tensor,
        source: Tensor,
        lengths: Sequence[int],
        *,
        is_alone: bool = False,
        stop_point: Callable[[], None] | None = None,
    ) -> Tensor:
        """mel (batch, mel_bands, frames) and the source's spectra (batch, spectrum, frames * rates + 1) to
        the same shape as these, with zeros after what belongs to a row's length; all float32.

        lengths: valid frames of each mel. is_alone: on the caller's thread alone. stop_point: called about
        every 5 ms; what it raises ends the call.

        Gradients are not computed. Raises ValueError naming the argument that does not fit.
        """
        check("mel", mel, torch.float32, ("batch", self.geometry.mel_bands, "frames"))
        batch, _, frames = mel.shape
        check_lengths(lengths, batch, frames)
        source_frames = frames * self.rate + 1
        check("source", source, torch.float32, (batch, self.geometry.spectrum, source_frames), ("mel", mel))
        mel, source = mel.contiguous(), source.contiguous()
        y = source.new_empty(source.shape)
        self._hift.run(
            address(mel),
            address(source),
            list(lengths),
            frames,
            source_frames,
            address(y),
            is_alone,
            stop_point,
        )
        return y

    # --- weights, in the forms that the C++ kernel takes --------------------------------------------

    def _level(self, name: str, level: HiftLevel, in_channels: int, channels: int) -> tuple[Any, ...]:
        rate, up = level.rate, level.up
        taps = level.source_down.weight.shape[-1]
        if level.source_stride < 1 or not 0 <= level.source_padding < taps:
            raise ValueError(
                f"{name}.source_down: {taps} taps have no stride of {level.source_stride} "
                f"with a padding of {level.source_padding}"
            )
        # Frame i * rate - rate / 2 + r has tap rate + r of frame i - 1, and tap r of frame i.
        weight = up.weight.permute(2, 1, 0).unflatten(0, (2, rate)).flip(0).permute(1, 2, 3, 0).flatten(0, 1)
        bias = None if up.bias is None else up.bias.repeat(rate)
        return (
            rate,
            channels,
            self._kept.product(f"{name}.up", Convolution(weight, bias), (rate * channels, in_channels, 2)),
            self._kept.product(
                f"{name}.source_down", level.source_down, (channels, self.geometry.spectrum, taps)
            ),
            (taps, level.source_stride, level.source_padding),
            self._block(f"{name}.source_block", level.source_block, channels),
            [self._block(f"{name}.blocks[{i}]", block, channels) for i, block in enumerate(level.blocks)],
        )

    def _block(self, name: str, block: HiftResBlock, channels: int) -> tuple[int, list[Any]]:
        parts = (block.dilations, block.alphas1, block.alphas2, block.convs1, block.convs2)
        if any(len(part) != NUM_DILATIONS for part in parts) or min(block.dilations) < 1:
            raise ValueError(f"{name}: expected three pairs of convolutions, dilated by 1 or more")
        taps = _odd(f"{name}.convs1[0]", block.convs1[0])
        shape = (channels, channels, taps)
        return taps, [
            (
                block.dilations[i],
                self._snake(f"{name}.alphas1[{i}]", block.alphas1[i], channels),
                self._snake(f"{name}.alphas2[{i}]", block.alphas2[i], channels),
                self._kept.product(f"{name}.convs1[{i}]", block.convs1[i], shape),
                self._kept.product(f"{name}.convs2[{i}]", block.convs2[i], shape),
            )
            for i in range(NUM_DILATIONS)
        ]

    def _snake(self, name: str, alpha: Tensor, channels: int) -> tuple[int, int]:
        first = self._kept.vector(name, alpha, channels)
        return first, self._kept.vector(name, 1 / (alpha + SNAKE_EPS), channels)


def _channels(name: str, level: HiftLevel) -> int:
    weight = level.up.weight
    if weight.dim() != 3 or level.rate < 2 or level.rate % 2 or weight.shape[2] != 2 * level.rate:
        raise ValueError(
            f"{name}.up.weight: expected (in, out, 2 * rate) and an even rate, "
            f"got {tuple(weight.shape)} and {level.rate}"
        )
    return weight.shape[1]


def _odd(name: str, layer: Convolution) -> int:
    taps = layer.weight.shape[-1]
    if layer.weight.dim() != 3 or taps % 2 == 0:
        raise ValueError(f"{name}.weight: expected an odd number of taps, got {tuple(layer.weight.shape)}")
    return taps
