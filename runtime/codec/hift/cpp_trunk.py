"""HiFT's trunk as one call into C++: the same function as `Hift.plain_trunk`, to float32's rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import DILATIONS, MEL_BANDS, RESBLOCK_KERNELS, UPSAMPLE_RATES
from antiphon.codec.hift.hift import LAST_SLOPE, NUM_BINS, Hift, ResBlock, Snake
from antiphon.codec.stopping import current_stop_point
from antiphon.kernels.hift import CppHift, HiftGeometry, HiftLevel, HiftResBlock
from antiphon.kernels.kept_weights import Convolution

__all__ = ["OneCallTrunk", "parts_of"]


class OneCallTrunk:
    """`Hift.trunk`; weights are copied."""

    def __init__(self, hift: Hift, *, is_alone: bool = False) -> None:
        """is_alone: on the caller's thread alone, whatever the number of threads."""
        self.is_alone = is_alone
        with torch.no_grad():
            self._hift = CppHift(*parts_of(hift))

    def __call__(self, mel: Tensor, source: Tensor, frames: Sequence[int]) -> Tensor:
        stop_point = current_stop_point()
        return self._hift(mel, source, frames, is_alone=self.is_alone, stop_point=stop_point)


def parts_of(hift: Hift) -> tuple[Convolution, list[HiftLevel], Convolution, HiftGeometry]:
    """What `CppHift` is made of."""
    geometry = HiftGeometry(
        mel_bands=MEL_BANDS,
        base_channels=hift.params.base_channels,
        spectrum=2 * NUM_BINS,
        slope=hift.params.lrelu_slope,
        last_slope=LAST_SLOPE,
    )
    blocks = [_block(block) for block in hift.resblocks]
    levels = []
    for i, rate in enumerate(UPSAMPLE_RATES):
        down = hift.source_downs[i]
        assert isinstance(down, nn.Conv1d), "built as one"
        (stride,), (padding,) = down.stride, (int(part) for part in down.padding)
        levels.append(
            HiftLevel(
                rate=rate,
                up=_product(hift.ups[i]),
                source_down=_product(down),
                source_stride=stride,
                source_padding=padding,
                source_block=_block(hift.source_resblocks[i]),
                blocks=blocks[len(RESBLOCK_KERNELS) * i : len(RESBLOCK_KERNELS) * (i + 1)],
            )
        )
    return _product(hift.conv_pre), levels, _product(hift.conv_post), geometry


def _product(layer: nn.Module) -> Convolution:
    assert isinstance(layer, nn.Conv1d | nn.ConvTranspose1d), "built as one of these"
    return Convolution(layer.weight, layer.bias)


def _block(block: nn.Module) -> HiftResBlock:
    assert isinstance(block, ResBlock), "built as one"

    def alphas(snakes: nn.ModuleList) -> list[Tensor]:
        return [snake.alpha for snake in snakes if isinstance(snake, Snake)]

    return HiftResBlock(
        dilations=DILATIONS,
        alphas1=alphas(block.activations1),
        alphas2=alphas(block.activations2),
        convs1=[_product(conv) for conv in block.convs1],
        convs2=[_product(conv) for conv in block.convs2],
    )
