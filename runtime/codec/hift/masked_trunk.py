"""HiFT's trunk for a GPU: the same function as `Hift.plain_trunk`, with the lengths of rows as a tensor on
the device, so that it can be recorded once and replayed for any lengths.

Convolutions compute in `dtype`; the residual streams stay float32, and so does Snake's phase. In 16 bits
tensors and weights lie with their channels side by side, as the tensor cores' convolutions want them; in
float32, frame by frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import RESBLOCK_KERNELS, UPSAMPLE_RATES
from antiphon.codec.hift.hift import LAST_SLOPE, Hift, ResBlock, Snake
from antiphon.codec.stopping import stop_point
from antiphon.kernels.snake import snake

__all__ = ["MaskedTrunk"]


class MaskedTrunk:
    """Weights are copied."""

    def __init__(self, hift: Hift, dtype: torch.dtype) -> None:
        def convs(parts: nn.ModuleList) -> list[Conv]:
            return [Conv(part, dtype) for part in parts]

        def blocks(parts: nn.ModuleList) -> list[Block]:
            return [Block(part, dtype) for part in parts if isinstance(part, ResBlock)]

        self.dtype = dtype
        self.slope = hift.params.lrelu_slope
        self.conv_pre, self.conv_post = Conv(hift.conv_pre, dtype), Conv(hift.conv_post, dtype)
        self.ups, self.source_downs = convs(hift.ups), convs(hift.source_downs)
        self.source_resblocks, self.resblocks = blocks(hift.source_resblocks), blocks(hift.resblocks)

    def __call__(self, mel: Tensor, source: Tensor, frames: Tensor) -> Tensor:
        """Mel (rows, 80, T) and spectra (rows, 64T + 1, 18), which are zero beyond a row's end, to spectra
        of that shape, all float32. frames: (rows,) how many of each row are valid."""
        spectra = image_of(source.mT, self.dtype)
        x = self.conv_pre(image_of(mel, self.dtype)) * mask_of(mel.shape[2], frames)[:, :, None].to(
            self.dtype
        )
        lengths = frames
        for i, (up, rate) in enumerate(zip(self.ups, UPSAMPLE_RATES, strict=True)):
            last = i == len(self.ups) - 1
            lengths = lengths * rate + int(last)
            x = up(F.leaky_relu(x, self.slope))
            if last:
                # Reflection by one frame on the left.
                x = torch.cat([x[..., 1:2], x], dim=-1)
            mask = mask_of(x.shape[-1], lengths)
            wide = mask[:, :, None]
            excitation = self.source_downs[i](spectra).float() * wide
            x = torch.addcmul(self.source_resblocks[i](excitation, mask), x.float(), wide)
            own = self.resblocks[len(RESBLOCK_KERNELS) * i : len(RESBLOCK_KERNELS) * (i + 1)]
            total = own[0](x, mask)
            for block in own[1:]:
                total += block(x, mask)
            x = (total / len(RESBLOCK_KERNELS)).to(self.dtype)
        return self.conv_post(F.leaky_relu(x, LAST_SLOPE))[:, :, 0].mT.float()


class Conv:
    """A convolution over frames, transposed or not: (rows, in, 1, frames) to (rows, out, 1, frames')."""

    def __init__(self, conv: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(conv, nn.Conv1d | nn.ConvTranspose1d), "built as one of these"
        self.transposed = isinstance(conv, nn.ConvTranspose1d)
        (stride,), (dilation,) = conv.stride, conv.dilation
        (padding,) = (int(part) for part in conv.padding)
        self.stride, self.dilation, self.padding = (1, stride), (1, dilation), (0, padding)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        weight = conv.weight.detach()[:, :, None].to(dtype)
        self.weight = weight.contiguous(memory_format=layout_of(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        if self.transposed:
            return F.conv_transpose2d(
                x, self.weight, self.bias, self.stride, self.padding, dilation=self.dilation
            )
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class Block:
    """`ResBlock`: (rows, channels, 1, frames) float32 to the same, zero where the mask is"""

    def __init__(self, block: ResBlock, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.convs1 = [Conv(part, dtype) for part in block.convs1]
        self.convs2 = [Conv(part, dtype) for part in block.convs2]
        self.alphas1, self.alphas2 = (
            [part.alpha.detach() for part in parts if isinstance(part, Snake)]
            for parts in (block.activations1, block.activations2)
        )

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        wide = mask[:, :, None]
        stages = zip(self.alphas1, self.convs1, self.alphas2, self.convs2, strict=True)
        for alpha1, conv1, alpha2, conv2 in stages:
            stop_point()
            h = snake(x[:, :, 0], alpha1, out_dtype=self.dtype)[:, :, None]
            h = snake(conv1(h)[:, :, 0], alpha2, mask)[:, :, None]
            x = torch.addcmul(x, conv2(h), wide)
        return x


def layout_of(dtype: torch.dtype) -> torch.memory_format:
    return torch.contiguous_format if dtype == torch.float32 else torch.channels_last


def image_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, channels, frames) to (rows, channels, 1, frames) as the convolutions want it."""
    return x[:, :, None].to(dtype, memory_format=layout_of(dtype))


def mask_of(size: int, lengths: Tensor) -> Tensor:
    """(rows, 1, size) float32, 1 on a row's first frames"""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].float()
