"""The flow's velocity estimator on a CPU in one call: a U-Net over frames, as csrc/cpu/unet.h computes it.

Operators of a small model take less time than what lies between them, above all beside another thread that
wants the interpreter's lock. Here the lock is released once for the whole network, sequences of a batch are
not padded, and a result depends neither on the batch nor on the number of threads, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from antiphon.kernels.checks import address, check
from antiphon.kernels.kept_weights import Convolution, KeptWeights, ProductAddress, check_lengths

__all__ = [
    "CppUNet",
    "Norm",
    "UNetBlock",
    "UNetGeometry",
    "UNetStage",
    "UNetTransformer",
]

Leave = Literal["at once", "same", "half", "double"]
LEAVES: tuple[Leave, ...] = ("at once", "same", "half", "double")
"""In the order of the C++ kernels' `Leave`."""
NUM_AT_EACH_END = 2
"""Stages that go down, and as many that go up."""


@dataclass(frozen=True, eq=False)
class Norm:
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class UNetBlock:
    """mish(group_norm(conv3(x)))"""

    conv: Convolution
    norm: Norm


@dataclass(frozen=True, eq=False)
class UNetTransformer:
    """x += out(attention(norm1(x))); x += back(gelu(project(norm3(x)))), `project` four times as wide as x.
    qkv: (3 * heads * head_dim, channels), queries first."""

    norm1: Norm
    norm3: Norm
    qkv: Convolution
    out: Convolution
    project: Convolution
    back: Convolution


@dataclass(frozen=True, eq=False)
class UNetStage:
    """block2(block1(x) + time) + res_conv(x), the transformers, and what leads to the next stage: nothing
    ("at once"), or a convolution that keeps ("same": 3 taps), halves ("half": 3 taps, stride 2) or doubles
    the frames ("double": transposed, 4 taps, stride 2)."""

    block1: UNetBlock
    block2: UNetBlock
    res_conv: Convolution
    transformers: Sequence[UNetTransformer]
    leave: Leave = "at once"
    next: Convolution | None = None

    @property
    def in_channels(self) -> int:
        return self.block1.conv.weight.shape[1]

    @property
    def out_channels(self) -> int:
        return self.block1.conv.weight.shape[0]


@dataclass(frozen=True)
class UNetGeometry:
    in_channels: int
    out_channels: int
    num_heads: int
    head_dim: int
    num_groups: int
    eps: float


class CppUNet:
    """Two stages down, any number in the middle, two up, each of which gets what its counterpart had beside
    its own input; then a block and a projection of one tap.

    Weights are copied, in float32. Raises ValueError naming the weight that does not fit.
    """

    def __init__(
        self,
        stages: Sequence[UNetStage],
        final_block: UNetBlock,
        final_proj: Convolution,
        geometry: UNetGeometry,
    ) -> None:
        from antiphon.kernels import _C

        self.geometry = geometry
        self.num_biases = sum(stage.out_channels for stage in stages)
        self._kept = KeptWeights()
        _check_stages(stages, geometry)
        last = stages[-1].out_channels
        self._unet = _C.UNet(
            stages=[self._stage(f"stages[{i}]", stage) for i, stage in enumerate(stages)],
            final_block=self._block("final_block", final_block, last, last),
            final_proj=self._kept.product("final_proj", final_proj, (geometry.out_channels, last, 1)),
            in_channels=geometry.in_channels,
            out_channels=geometry.out_channels,
            num_heads=geometry.num_heads,
            head_dim=geometry.head_dim,
            num_groups=geometry.num_groups,
            eps=geometry.eps,
        )

    def __call__(
        self,
        x: Tensor,
        time_bias: Tensor,
        lengths: Sequence[int],
        *,
        is_alone: bool = False,
        stop_point: Callable[[], None] | None = None,
    ) -> Tensor:
        """x: (batch, in_channels, frames), float32, to (batch, out_channels, frames), with zeros after each
        row's length.

        time_bias: (channels of all stages,), added between the blocks. is_alone: on the caller's thread
        alone. stop_point: called about every 5 ms; what it raises ends the call.

        Gradients are not computed. Raises ValueError naming the argument that does not fit.
        """
        check("x", x, torch.float32, ("batch", self.geometry.in_channels, "frames"))
        check("time_bias", time_bias, torch.float32, (self.num_biases,), ("x", x))
        batch, _, frames = x.shape
        check_lengths(lengths, batch, frames)
        x, time_bias = x.contiguous(), time_bias.contiguous()
        y = x.new_empty(batch, self.geometry.out_channels, frames)
        self._unet.run(
            address(x), address(time_bias), list(lengths), frames, address(y), is_alone, stop_point
        )
        return y

    # --- weights, in the forms that the C++ kernel takes --------------------------------------------

    def _stage(self, name: str, stage: UNetStage) -> tuple[Any, ...]:
        channels, geometry = stage.out_channels, self.geometry
        inner = geometry.num_heads * geometry.head_dim
        shapes = {
            "qkv": (3 * inner, channels, 1),
            "out": (channels, inner, 1),
            "project": (4 * channels, channels, 1),
            "back": (channels, 4 * channels, 1),
        }
        transformers = []
        for i, layer in enumerate(stage.transformers):
            at = f"{name}.transformers[{i}]"
            norms = (self._norm(f"{at}.{one}", getattr(layer, one), channels) for one in ("norm1", "norm3"))
            products = [
                self._kept.product(f"{at}.{one}", getattr(layer, one), shape) for one, shape in shapes.items()
            ]
            transformers.append((*norms, products))
        return (
            stage.in_channels,
            channels,
            self._block(f"{name}.block1", stage.block1, stage.in_channels, channels),
            self._block(f"{name}.block2", stage.block2, channels, channels),
            self._kept.product(f"{name}.res_conv", stage.res_conv, (channels, stage.in_channels, 1)),
            transformers,
            LEAVES.index(stage.leave),
            self._next(f"{name}.next", stage),
        )

    def _next(self, name: str, stage: UNetStage) -> list[ProductAddress]:
        channels = stage.out_channels
        if stage.leave == "at once" or stage.next is None:
            return []
        if stage.leave != "double":
            return [self._kept.product(name, stage.next, (channels, channels, 3))]
        check(f"{name}.weight", stage.next.weight, torch.float32, (channels, channels, 4))
        # Frame 2j has taps 3 and 1, of frames j - 1 and j; frame 2j + 1 has taps 2 and 0, of j and j + 1.
        taps = stage.next.weight.transpose(0, 1)
        return [
            self._kept.product(name, Convolution(taps[:, :, pair], stage.next.bias), (channels, channels, 2))
            for pair in ([3, 1], [2, 0])
        ]

    def _block(self, name: str, block: UNetBlock, in_channels: int, out_channels: int) -> tuple[Any, Any]:
        conv = self._kept.product(f"{name}.conv", block.conv, (out_channels, in_channels, 3))
        return conv, self._norm(f"{name}.norm", block.norm, out_channels)

    def _norm(self, name: str, norm: Norm, channels: int) -> tuple[int, int]:
        weight = self._kept.vector(f"{name}.weight", norm.weight, channels)
        return weight, self._kept.vector(f"{name}.bias", norm.bias, channels)


def _check_stages(stages: Sequence[UNetStage], geometry: UNetGeometry) -> None:
    """Raise ValueError unless each stage takes what the one before it gives, and what its counterpart had."""
    if len(stages) < 2 * NUM_AT_EACH_END:
        raise ValueError(f"stages: expected at least two down and two up, got {len(stages)}")
    before = geometry.in_channels
    for i, stage in enumerate(stages):
        up = i - (len(stages) - NUM_AT_EACH_END)
        expected = before + (stages[1 - up].out_channels if up >= 0 else 0)
        leave = (
            ("half", "same")[i] if i < NUM_AT_EACH_END else ("double", "same")[up] if up >= 0 else "at once"
        )
        if (
            stage.in_channels != expected
            or stage.leave != leave
            or (stage.next is None) != (leave == "at once")
        ):
            raise ValueError(
                f"stages[{i}]: expected {expected} channels in and to leave {leave!r}, "
                f"got {stage.in_channels} and {stage.leave!r}"
            )
        if stage.out_channels % geometry.num_groups:
            raise ValueError(
                f"stages[{i}]: {stage.out_channels} channels are no {geometry.num_groups} equal groups"
            )
        before = stage.out_channels
