"""The velocity estimator of `unet.py` with packed weights: the same function, for products in bfloat16, and
for a CPU without our C++ kernels, by which `cpp_unet.py` is faster.

Everything is laid out as (batch, frames, channels). Only products are computed in `dtype`, with their inputs
and outputs: in bfloat16, the residual stream, norms, softmax and activations stay float32.
"""

from __future__ import annotations

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.flow.unet import Block, Resample, ResNet, Stage, Transformer, UNet
from antiphon.codec.layers.packed import PackedConv, PackedLinear
from antiphon.codec.layers.padding import group_norm, masked
from antiphon.codec.stopping import stop_point
from antiphon.kernels import registry
from antiphon.kernels.masked_group_norm import masked_group_norm

__all__ = ["PackedUNet", "mish"]


class PackedUNet:
    """`UNet.forward`, to float32's rounding if `dtype` is float32.

    In bfloat16, a velocity is off by 7e-3 of its largest value (random weights of the released size), in line
    with the products' own precision of 2^-8; for the result of integration and guidance, see `Codec`.
    """

    def __init__(self, unet: UNet, dtype: torch.dtype, *, onednn: bool | None = None) -> None:
        """onednn: None to use it if possible (`packed.has_onednn`). Weights are copied."""
        self.dtype = dtype
        self.down, self.mid, self.up = (
            [PackedStage(stage, dtype, onednn) for stage in stages if isinstance(stage, Stage)]
            for stages in (unet.down_blocks, unet.mid_blocks, unet.up_blocks)
        )
        self.final_block = PackedBlock(unet.final_block, dtype, onednn)
        self.final_proj = PackedConv(unet.final_proj, dtype, onednn=onednn)

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (batch, in_channels, frames) to (batch, out_channels, frames), float32; `time_bias`: one row of
        `UNet.time_bias`; `mask`: (batch, 1, frames) of 0 and 1; None: all valid."""
        stages = list(chain(self.down, self.mid, self.up))
        biases = iter(torch.split(time_bias, [stage.out_channels for stage in stages]))
        whole = None if mask is None else mask.mT.contiguous()
        half = None if whole is None else whole[:, ::2].contiguous()
        x = x.mT.to(self.dtype, memory_format=torch.contiguous_format).contiguous()
        skips = []
        for stage, at in zip(self.down, (whole, half), strict=True):
            hidden = stage(x, next(biases), at)
            skips.append(hidden)
            x = stage.leave(hidden, at)
        for stage in self.mid:
            x = stage(x, next(biases), half).to(self.dtype)
        for stage, at in zip(self.up, (half, whole), strict=True):
            skip = skips.pop().to(self.dtype)
            # If the number of frames is odd, the lower level returns one too many.
            joined = torch.cat([x[:, : skip.shape[1]], skip], dim=2)
            x = stage.leave(stage(joined, next(biases), at), at)
        x = self.final_block(x, whole).to(self.dtype)
        return masked(self.final_proj(masked(x, whole)), whole).float().mT


class PackedBlock:
    """mish(GN8(conv3(x * m))) * m, `dtype` to float32"""

    def __init__(self, block: Block, dtype: torch.dtype, onednn: bool | None) -> None:
        conv, norm = block.block
        assert isinstance(conv, nn.Conv1d) and isinstance(norm, nn.GroupNorm), "a block is built of these"
        self.conv = PackedConv(conv, dtype, onednn=onednn)
        self.norm = norm
        # On a GPU one kernel does norm, Mish and mask; on a CPU PyTorch's norm and our Mish are faster.
        self.is_fused = registry.choose("masked_group_norm", norm.weight.device, torch.float32) == "triton"

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.conv(masked(x, mask)).float()
        if self.is_fused:
            weight, bias = self.norm.weight, self.norm.bias
            valid = None if mask is None else mask.mT
            return masked_group_norm(h.mT, weight, bias, self.norm.num_groups, self.norm.eps, valid).mT
        if mask is None:
            norm = self.norm
            # Four dimensions, for which PyTorch has a norm of channels that are side by side in memory.
            h = F.group_norm(h.mT[:, :, None], norm.num_groups, norm.weight, norm.bias, norm.eps)[:, :, 0].mT
        else:
            h = group_norm(h.mT, self.norm, mask.mT).mT
        return masked(mish(h), mask)


class PackedResNet:
    """`dtype` to float32"""

    def __init__(self, resnet: ResNet, dtype: torch.dtype, onednn: bool | None) -> None:
        self.dtype = dtype
        self.block1 = PackedBlock(resnet.block1, dtype, onednn)
        self.block2 = PackedBlock(resnet.block2, dtype, onednn)
        self.res_conv = PackedConv(resnet.res_conv, dtype, onednn=onednn)

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None) -> Tensor:
        h = self.block1(x, mask).add_(time_bias).to(self.dtype)
        return self.res_conv.add_to(self.block2(h, mask), masked(x, mask))


class PackedTransformer:
    """Changes the float32 residual stream in place."""

    def __init__(self, transformer: Transformer, dtype: torch.dtype, onednn: bool | None) -> None:
        attention, feed_forward = transformer.attn1, transformer.ff
        project, back = feed_forward.net[0].proj, feed_forward.net[2]
        assert isinstance(project, nn.Linear) and isinstance(back, nn.Linear), "a feed-forward has these"
        out = attention.to_out[0]
        assert isinstance(out, nn.Linear), "to_out.0 is built as a Linear"
        self.dtype = dtype
        self.num_heads = attention.num_heads
        self.norm1, self.norm3 = transformer.norm1, transformer.norm3
        qkv = torch.cat([part.weight for part in (attention.to_q, attention.to_k, attention.to_v)])
        self.qkv = PackedLinear(qkv, None, dtype, onednn=onednn)
        self.out = PackedLinear(out.weight, out.bias, dtype, onednn=onednn)
        self.project = PackedLinear(project.weight, project.bias, dtype, gelu=True, onednn=onednn)
        self.back = PackedLinear(back.weight, back.bias, dtype, onednn=onednn)

    def __call__(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """x: (batch, frames, channels); keys: (batch, 1, 1, frames), True where they are valid."""
        qkv = self.qkv(self.norm1(x).to(self.dtype))
        q, k, v = qkv.view(*qkv.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        x = self.out.add_to(x, attended.transpose(1, 2).flatten(2))
        return self.back.add_to(x, self.project(self.norm3(x).to(self.dtype)))


class PackedStage:
    """One level, `dtype` to float32; `leave` leads to the next, float32 to `dtype`."""

    def __init__(self, stage: Stage, dtype: torch.dtype, onednn: bool | None) -> None:
        resnet, transformers, *leave = stage.children()
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        self.dtype = dtype
        self.out_channels = stage.out_channels
        self.resnet = PackedResNet(resnet, dtype, onednn)
        self.transformers = [
            PackedTransformer(part, dtype, onednn)
            for part in transformers.children()
            if isinstance(part, Transformer)
        ]
        convs = [part.conv if isinstance(part, Resample) else part for part in leave]
        self._leave = [
            PackedConv(conv, dtype, onednn=onednn)
            for conv in convs
            if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d)
        ]

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None) -> Tensor:
        x = self.resnet(x, time_bias, mask)
        keys = None if mask is None else mask.mT[:, None].bool()
        for transformer in self.transformers:
            stop_point()
            x = transformer(x, keys)
        return x

    def leave(self, x: Tensor, mask: Tensor | None) -> Tensor:
        (conv,) = self._leave
        return conv(masked(x, mask).to(self.dtype))


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2): PyTorch's own takes two scalar functions
    per number. Beyond 20 the quotient is 1 in float32."""
    power = x.clamp(max=20).exp_()
    n = torch.addcmul(2 * power, power, power)
    return (n + 2).reciprocal_().mul_(n).mul_(x)
