"""Arithmetic of one decoded utterance, from its shapes: what torch's FlopCounterMode counts, without running
it. A multiplication with its addition is two."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from antiphon.codec.checkpoint.hyperparams import UPSAMPLE_RATES, CodecParams
from antiphon.codec.flow.encoder import Encoder, RelativeAttention
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.flow.solver import NUM_STEPS
from antiphon.codec.flow.unet import ResNet, Stage, UNet
from antiphon.codec.hift.hift import Hift

__all__ = ["CodecFlops", "codec_flops"]


class CodecFlops(NamedTuple):
    flow: float
    f0: float
    hift: float

    @property
    def total(self) -> float:
        return self.flow + self.f0 + self.hift


def codec_flops(params: CodecParams, num_units: int) -> CodecFlops:
    """Of one utterance without a prompt."""
    with torch.device("meta"):
        flow, hift = FlowModel(params.flow), Hift(params.hift)
    frames = params.flow.mel_frames(num_units)
    estimator = flow.decoder["estimator"]
    assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
    return CodecFlops(
        flow=_encoder(flow.encoder, num_units)
        + 2 * _weights(flow.encoder_proj) * num_units
        + 2 * _weights(flow.length_regulator) * frames
        + 2 * NUM_STEPS * _velocity(estimator, frames),
        f0=2 * _weights(hift.f0_predictor) * frames,
        hift=_trunk(hift, frames),
    )


def _weights(module: nn.Module) -> int:
    """Numbers in matrices and kernels, each of which meets every frame."""
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


def _encoder(encoder: Encoder, n: int) -> float:
    attentions = [part for part in encoder.modules() if isinstance(part, RelativeAttention)]
    positions = sum(_weights(part.linear_pos) for part in attentions)
    biases = sum(part.pos_bias_u.numel() + part.pos_bias_v.numel() for part in attentions)
    # The table of positions has 2n - 1 rows, and so have the products with it.
    attention = 8 * n * n * encoder.channels * len(attentions)
    return 2 * (_weights(encoder) - positions - biases) * n + 4 * positions * n + attention


def _velocity(unet: UNet, frames: int) -> float:
    """One call with one sequence."""
    half = -(-frames // 2)
    inner = unet.params.num_heads * unet.params.attention_head_dim
    total = 2 * (_weights(unet.final_block) + _weights(unet.final_proj)) * frames
    levels = (
        list(zip(unet.down_blocks, (frames, half), strict=True))
        + [(stage, half) for stage in unet.mid_blocks]
        + list(zip(unet.up_blocks, (half, frames), strict=True))
    )
    for stage, length in levels:
        assert isinstance(stage, Stage), "every level is built as a Stage"
        resnet, transformers, *leave = stage.children()
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        per_frame = _weights(resnet) - _weights(resnet.mlp) + _weights(transformers)
        # A stride of two halves the frames that the kernel meets; a transposed kernel meets the shorter side.
        leaving = half if stage is unet.down_blocks[0] else length
        total += 2 * per_frame * length + 2 * sum(map(_weights, leave)) * leaving
        total += 4 * inner * length * length * len(list(transformers.children()))
    return total


def _trunk(hift: Hift, frames: int) -> float:
    total, length = _weights(hift.conv_pre) * frames, frames
    count = len(hift.resblocks) // len(UPSAMPLE_RATES)
    for i, (up, rate) in enumerate(zip(hift.ups, UPSAMPLE_RATES, strict=True)):
        total += _weights(up) * length
        length *= rate
        blocks = [
            hift.source_downs[i],
            hift.source_resblocks[i],
            *hift.resblocks[count * i : count * (i + 1)],
        ]
        total += sum(map(_weights, blocks)) * length
    return 2 * (total + _weights(hift.conv_post) * length)
