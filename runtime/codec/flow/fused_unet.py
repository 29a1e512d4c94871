"""The velocity estimator of `unet.py` in few launches, for a GPU: the same function, in any precision.

A chunk of streamed speech has about a hundred frames, so a kernel takes microseconds, most of them to start
and end: what counts is the number of kernels. A transformer layer takes two, a ResNet four, whatever the
precision. Everything is laid out as (batch, frames, channels); products are computed in `dtype`, with their
inputs; the residual stream, norms, softmax and activations are float32. Kernels know the length of each row,
so no mask is applied to anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.flow.unet import Block, Resample, ResNet, Stage, Transformer, UNet
from antiphon.codec.stopping import stop_point
from antiphon.kernels import registry
from antiphon.kernels.masked_conv import masked_conv
from antiphon.kernels.masked_group_norm import masked_group_norm
from antiphon.kernels.norm_attention import norm_attention
from antiphon.kernels.norm_feed_forward import FeedForward, norm_feed_forward

__all__ = ["FusedUNet", "is_fused_on"]

NUM_COUNTERS = 128
"""Of tiles of frames that several programs share (`FeedForward`): with more, each has its own program."""
OPS = ("masked_conv", "masked_group_norm", "norm_attention", "norm_feed_forward")


def is_fused_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device has the kernels that make it worthwhile."""
    return all(registry.choose(op, device, dtype) == "triton" for op in OPS)


@dataclass(frozen=True, eq=False)
class Level:
    """Which frames are valid at one of the two rates; all are if both are None."""

    mask: Tensor | None
    """(batch, 1, frames)"""
    lengths: Tensor | None
    """(batch,) int32"""

    @staticmethod
    def of(mask: Tensor | None) -> Level:
        return Level(mask, None if mask is None else mask[:, 0].sum(1, dtype=torch.int32))


class FusedUNet:
    """`UNet.forward`, to float32's rounding if `dtype` is float32; see `PackedUNet` for 16 bits."""

    def __init__(self, unet: UNet, dtype: torch.dtype, *, backend: str | None = None) -> None:
        """backend: of the kernels; None to choose by device. Weights are copied."""
        self.down, self.mid, self.up = (
            [FusedStage(stage, dtype, backend) for stage in stages if isinstance(stage, Stage)]
            for stages in (unet.down_blocks, unet.mid_blocks, unet.up_blocks)
        )
        self.final_block = FusedBlock(unet.final_block, dtype, backend)
        self.final_proj = FusedConv(unet.final_proj, dtype, backend, mask_output=True)

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (batch, in_channels, frames) to (batch, out_channels, frames), float32, laid out frame by frame;
        `time_bias`: one row of `UNet.time_bias`; `mask`: (batch, 1, frames) of 0 and 1, the zeros after the
        ones; None: all valid."""
        stages = list(chain(self.down, self.mid, self.up))
        biases = iter(torch.split(time_bias, [stage.out_channels for stage in stages]))
        whole = Level.of(mask)
        half = Level.of(None if mask is None else mask[:, :, ::2])
        x = x.mT
        skips = []
        for stage, at in zip(self.down, (whole, half), strict=True):
            x = stage(x, next(biases), at)
            skips.append(x)
            x = stage.leave(x, at)
        for stage in self.mid:
            x = stage(x, next(biases), half)
        for stage, at in zip(self.up, (half, whole), strict=True):
            skip = skips.pop()
            # If the number of frames is odd, the lower level returns one too many.
            x = stage(torch.cat([x[:, : skip.shape[1]], skip], dim=2), next(biases), at)
            x = stage.leave(x, at)
        return self.final_proj(self.final_block(x, whole), whole).mT


class FusedConv:
    """A convolution of valid frames, transposed or not, to float32."""

    def __init__(
        self,
        conv: nn.Module,
        dtype: torch.dtype,
        backend: str | None,
        *,
        beside: nn.Conv1d | None = None,
        mask_output: bool = False,
    ) -> None:
        """beside: a convolution of width 1 of the same input, whose channels come after the others."""
        assert isinstance(conv, nn.Conv1d | nn.ConvTranspose1d), "built as one of these"
        self.backend = backend
        self.mask_output = mask_output
        self.is_doubling = isinstance(conv, nn.ConvTranspose1d)
        self.stride = 1 if self.is_doubling else conv.stride[0]
        weight = doubling_taps(conv.weight) if self.is_doubling else conv.weight.permute(2, 0, 1)
        assert conv.bias is not None, "no convolution of the estimator is without"
        bias = conv.bias.repeat(2) if self.is_doubling else conv.bias
        if beside is not None:
            assert beside.bias is not None, "no convolution of the estimator is without"
            own = F.pad(beside.weight.permute(2, 0, 1), (0, 0, 0, 0, 1, 1))
            weight, bias = torch.cat([weight, own], dim=1), torch.cat([bias, beside.bias])
        self.weight = weight.to(dtype).contiguous()
        self.bias = bias.float().clone()

    def __call__(self, x: Tensor, at: Level) -> Tensor:
        """(batch, frames, in) to (batch, frames', out)"""
        out = masked_conv(
            x,
            self.weight,
            self.bias,
            at.lengths,
            stride=self.stride,
            mask_output=self.mask_output,
            backend=self.backend,
        )
        # Channels of even frames, then of odd ones: in memory, that is frame after frame.
        return out.view(out.shape[0], 2 * out.shape[1], -1) if self.is_doubling else out


def doubling_taps(weight: Tensor) -> Tensor:
    """A transposed convolution (in, out, 4) with stride 2 and padding 1, as one (3, 2 * out, in) of width 3
    that gives the even frames and the odd ones beside each other."""
    first, second, third, fourth = weight.permute(2, 1, 0)
    nothing = torch.zeros_like(first)
    even, odd = (fourth, second, nothing), (nothing, third, first)
    return torch.stack([torch.cat(pair) for pair in zip(even, odd, strict=True)])


class FusedBlock:
    """mish(GN8(conv3(x * m))) * m, to `dtype`"""

    def __init__(
        self, block: Block, dtype: torch.dtype, backend: str | None, *, beside: nn.Conv1d | None = None
    ) -> None:
        conv, norm = block.block
        assert isinstance(conv, nn.Conv1d) and isinstance(norm, nn.GroupNorm), "a block is built of these"
        self.dtype = dtype
        self.backend = backend
        self.conv = FusedConv(conv, dtype, backend, beside=beside)
        self.norm = norm

    def __call__(self, x: Tensor, at: Level) -> Tensor:
        return self.normed(self.conv(x, at), at)

    def normed(
        self,
        h: Tensor,
        at: Level,
        *,
        shift: Tensor | None = None,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """What follows the convolution; shift, residual: see `masked_group_norm`."""
        norm = self.norm
        out = masked_group_norm(
            h.mT,
            norm.weight,
            norm.bias,
            norm.num_groups,
            norm.eps,
            at.mask,
            shift=shift,
            residual=None if residual is None else residual.mT,
            out_dtype=dtype or self.dtype,
            backend=self.backend,
        )
        return out.mT


class FusedResNet:
    """To float32"""

    def __init__(self, resnet: ResNet, dtype: torch.dtype, backend: str | None) -> None:
        self.block1 = FusedBlock(resnet.block1, dtype, backend, beside=resnet.res_conv)
        self.block2 = FusedBlock(resnet.block2, dtype, backend)

    def __call__(self, x: Tensor, time_bias: Tensor, at: Level) -> Tensor:
        hidden, around = self.block1.conv(x, at).chunk(2, dim=2)
        h = self.block1.normed(hidden, at, shift=time_bias)
        return self.block2.normed(self.block2.conv(h, at), at, residual=around, dtype=torch.float32)


class FusedTransformer:
    """float32 to float32"""

    def __init__(self, transformer: Transformer, dtype: torch.dtype, backend: str | None) -> None:
        attention, feed_forward, norm = transformer.attn1, transformer.ff, transformer.norm3
        out, project, back = attention.to_out[0], feed_forward.net[0].proj, feed_forward.net[2]
        assert isinstance(out, nn.Linear) and isinstance(project, nn.Linear), "a layer has these"
        assert isinstance(back, nn.Linear), "a feed-forward has this"
        self.backend = backend
        self.norm = transformer.norm1
        self.num_heads = attention.num_heads
        qkv = torch.cat([part.weight for part in (attention.to_q, attention.to_k, attention.to_v)])
        self.qkv = qkv.to(dtype).contiguous()
        self.feed_forward = FeedForward(
            out_weight=out.weight.to(dtype).contiguous(),
            out_bias=out.bias,
            norm_weight=norm.weight,
            norm_bias=norm.bias,
            up_weight=project.weight.to(dtype).contiguous(),
            up_bias=project.bias,
            down_weight=back.weight.to(dtype).contiguous(),
            down_bias=back.bias,
            eps=norm.eps,
            counters=out.weight.new_zeros(NUM_COUNTERS, dtype=torch.int32),
        )

    def __call__(self, x: Tensor, at: Level) -> Tensor:
        norm = self.norm
        attended = norm_attention(
            x, norm.weight, norm.bias, norm.eps, self.qkv, self.num_heads, at.lengths, backend=self.backend
        )
        return norm_feed_forward(x, attended, self.feed_forward, backend=self.backend)


class FusedStage:
    """One level, to float32; `leave` leads to the next."""

    def __init__(self, stage: Stage, dtype: torch.dtype, backend: str | None) -> None:
        resnet, transformers, *leave = stage.children()
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        self.out_channels = stage.out_channels
        self.resnet = FusedResNet(resnet, dtype, backend)
        self.transformers = [
            FusedTransformer(part, dtype, backend)
            for part in transformers.children()
            if isinstance(part, Transformer)
        ]
        convs = [part.conv if isinstance(part, Resample) else part for part in leave]
        self._leave = [FusedConv(conv, dtype, backend) for conv in convs]

    def __call__(self, x: Tensor, time_bias: Tensor, at: Level) -> Tensor:
        x = self.resnet(x, time_bias, at)
        for transformer in self.transformers:
            stop_point()
            x = transformer(x, at)
        return x

    def leave(self, x: Tensor, at: Level) -> Tensor:
        (conv,) = self._leave
        return conv(x, at)
