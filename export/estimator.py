"""The velocity estimator as a module that can be exported: the function of `codec.flow.unet.UNet`, written
with nothing but products, sums, softmax and means.

Attention is a product, a softmax and a product: ONNX's Attention operator fails in some builders. Products
are taken in float32 or float16; norms, softmax, activations and the residual stream stay float32, which is
what keeps float16 free of overflows.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.flow.unet import Attention, Block, GeluProjection, ResNet, Stage, Transformer, UNet
from antiphon.codec.layers.padding import masked
from antiphon.kernels.masked_group_norm import group_norm_reference

__all__ = ["EstimatorNetwork"]

HIDDEN = -1e9
"""Added to the scores of padding, whose share in the softmax is then exactly zero. Infinity would give NaN in
a row without a valid frame."""


class EstimatorNetwork(nn.Module):
    """Velocity at (x, t), for a ragged batch; a row comes out as it would alone."""

    def __init__(self, unet: UNet, dtype: torch.dtype) -> None:
        """dtype: that of the products. Weights are copied."""
        super().__init__()
        self.unet = copy.deepcopy(unet)
        self.dtype = dtype
        exact = set(chain(*(part.modules() for name, part in self.unet.named_modules() if is_exact(name))))
        for part in self.unet.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.ConvTranspose1d) and part not in exact:
                part.to(dtype)

    def forward(
        self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, speaker: Tensor, prompt: Tensor
    ) -> Tensor:
        """x, mu, prompt: (batch, 80, frames) float32; mask: (batch, 1, frames), 1 on valid frames, which come
        first, and 0 on padding; t: (batch,); speaker: (batch, 80). Returns (batch, 80, frames), 0 on padding.
        """
        on_each = speaker[:, :, None].expand(-1, -1, x.shape[2])
        x = torch.cat([x, mu, on_each, prompt], dim=1)
        parts = [self.unet.down_blocks, self.unet.mid_blocks, self.unet.up_blocks]
        stages = [stage for part in parts for stage in part if isinstance(stage, Stage)]
        widths = [stage.out_channels for stage in stages]
        biases = iter(torch.split(self.unet.time_bias(t)[:, :, None], widths, dim=1))
        down, mid, up = stages[:2], stages[2:-2], stages[-2:]
        half = mask[:, :, ::2]
        skips = []
        for stage, at in zip(down, (mask, half), strict=True):
            x = self._stage(stage, x, next(biases), at)
            skips.append(x)
            x = self._product(stage[2], masked(x, at))
        for stage in mid:
            x = self._stage(stage, x, next(biases), half)
        for stage, at in zip(up, (half, mask), strict=True):
            skip = skips.pop()
            # If the number of frames is odd, the transposed convolution returns one too many.
            x = torch.cat([x[:, :, : skip.shape[2]], skip], dim=1)
            x = self._stage(stage, x, next(biases), at)
            x = self._product(stage[2], masked(x, at))
        x = self._block(self.unet.final_block, x[:, :, : mask.shape[2]], mask)
        return masked(self._product(self.unet.final_proj, masked(x, mask)), mask)

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(x.to(self.dtype))
        return out.float()

    def _block(self, block: Block, x: Tensor, mask: Tensor) -> Tensor:
        conv, norm = block.block
        assert isinstance(norm, nn.GroupNorm), "block.1 is built as a GroupNorm"
        h = self._product(conv, masked(x, mask))
        h = group_norm_reference(h, norm.weight, norm.bias, norm.num_groups, norm.eps, mask)
        return masked(F.mish(h), mask)

    def _stage(self, stage: Stage, x: Tensor, time_bias: Tensor, mask: Tensor) -> Tensor:
        resnet, transformers = stage[0], stage[1]
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        h = self._block(resnet.block1, x, mask) + time_bias
        x = self._block(resnet.block2, h, mask) + self._product(resnet.res_conv, masked(x, mask))
        x = x.transpose(1, 2)
        hidden = (1 - mask[:, None]) * HIDDEN
        for transformer in transformers.children():
            assert isinstance(transformer, Transformer), "place 1 is built of them"
            x = x + self._attention(transformer.attn1, transformer.norm1(x), hidden)
            project, _, back = transformer.ff.net
            assert isinstance(project, GeluProjection), "place 0 is built as one"
            h = F.gelu(self._product(project.proj, transformer.norm3(x)))
            x = x + self._product(back, h)
        return x.transpose(1, 2)

    def _attention(self, attention: Attention, x: Tensor, hidden: Tensor) -> Tensor:
        x = x.to(self.dtype)
        batch, frames, _ = x.shape
        q, k, v = (
            layer(x).reshape(batch, frames, attention.num_heads, -1).transpose(1, 2)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        shares = torch.softmax(scores.float() + hidden, dim=-1).to(self.dtype)
        return self._product(attention.to_out[0], (shares @ v).transpose(1, 2).flatten(2))


def is_exact(name: str) -> bool:
    """Whether it is a part that embeds time: a few numbers, computed once a step."""
    return name == "time_mlp" or name.endswith(".mlp")
