"""The velocity estimator of `unet.py` as one call into C++: the same function, to float32's rounding."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from antiphon.codec.flow.unet import Block, GeluProjection, Resample, ResNet, Stage, Transformer, UNet
from antiphon.codec.stopping import current_stop_point
from antiphon.kernels.kept_weights import Convolution
from antiphon.kernels.unet import (
    CppUNet,
    Leave,
    Norm,
    UNetBlock,
    UNetGeometry,
    UNetStage,
    UNetTransformer,
)

__all__ = ["OneCallUNet", "stages_of"]


class OneCallUNet:
    """`UNet.forward`; weights are copied."""

    def __init__(self, unet: UNet, *, is_alone: bool = False) -> None:
        """is_alone: on the caller's thread alone, whatever the number of threads."""
        self.is_alone = is_alone
        with torch.no_grad():
            self._unet = CppUNet(*stages_of(unet))

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `UNet.forward`; the mask's zeros come after its ones."""
        batch, _, frames = x.shape
        lengths = [frames] * batch if mask is None else mask[:, 0].sum(1).int().tolist()
        return self._unet(x, time_bias, lengths, is_alone=self.is_alone, stop_point=current_stop_point())


def stages_of(unet: UNet) -> tuple[list[UNetStage], UNetBlock, Convolution, UNetGeometry]:
    """What `CppUNet` is made of."""
    params, norm = unet.params, unet.final_block.block[1]
    assert isinstance(norm, nn.GroupNorm), "block.1 is built as a GroupNorm"
    geometry = UNetGeometry(
        in_channels=params.in_channels,
        out_channels=params.out_channels,
        num_heads=params.num_heads,
        head_dim=params.attention_head_dim,
        num_groups=norm.num_groups,
        eps=norm.eps,
    )
    stages = chain(unet.down_blocks, unet.mid_blocks, unet.up_blocks)
    return (
        [_stage(stage) for stage in stages if isinstance(stage, Stage)],
        _block(unet.final_block),
        _product(unet.final_proj),
        geometry,
    )


def _product(layer: nn.Module) -> Convolution:
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d), "all others are norms"
    return Convolution(layer.weight, layer.bias)


def _norm(norm: nn.Module) -> Norm:
    assert isinstance(norm, nn.LayerNorm | nn.GroupNorm), "built as one of these"
    return Norm(norm.weight, norm.bias)


def _block(block: Block) -> UNetBlock:
    conv, norm = block.block.children()
    return UNetBlock(_product(conv), _norm(norm))


def _transformer(layer: Transformer) -> UNetTransformer:
    attention = layer.attn1
    project, _, back = layer.ff.net.children()
    assert isinstance(project, GeluProjection), "place 0 is built as one"
    qkv = torch.cat([part.weight for part in (attention.to_q, attention.to_k, attention.to_v)])
    return UNetTransformer(
        norm1=_norm(layer.norm1),
        norm3=_norm(layer.norm3),
        qkv=Convolution(qkv, None),
        out=_product(attention.to_out[0]),
        project=_product(project.proj),
        back=_product(back),
    )


def _stage(stage: Stage) -> UNetStage:
    resnet, transformers, *leave = stage.children()
    assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
    how: Leave = "at once"
    following = None
    for part in leave:
        conv = part.conv if isinstance(part, Resample) else part
        following = _product(conv)
        how = (
            "double"
            if isinstance(conv, nn.ConvTranspose1d)
            else "half"
            if isinstance(part, Resample)
            else "same"
        )
    return UNetStage(
        block1=_block(resnet.block1),
        block2=_block(resnet.block2),
        res_conv=_product(resnet.res_conv),
        transformers=[
            _transformer(part) for part in transformers.children() if isinstance(part, Transformer)
        ],
        leave=how,
        next=following,
    )
