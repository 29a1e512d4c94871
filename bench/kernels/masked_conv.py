"""Convolutions of the flow's estimator over padded batches, both rows of guidance included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.masked_conv import masked_conv, masked_conv_reference

__all__ = ["cases"]

TAPS, IN_CHANNELS, OUT_CHANNELS = 3, 256, 512  # of a ResNet of the released flow, with what goes around it


def cases(setting: Setting) -> Iterator[Case]:
    for rows, frames in ((2, 86), (2, 862), (16, 258)):  # 1 s, 10 s, eight of 3 s

        def inputs(backend: str, rows: int = rows, frames: int = frames) -> tuple[Any, ...]:
            x = setting.randn(rows, frames, IN_CHANNELS)
            weight = setting.randn(TAPS, OUT_CHANNELS, IN_CHANNELS, scale=0.03)
            return x, weight, setting.randn(OUT_CHANNELS).float()

        weights = TAPS * IN_CHANNELS * OUT_CHANNELS
        yield Case(
            shape=f"{rows} x {frames} x {IN_CHANNELS}, {OUT_CHANNELS} channels",
            num_bytes=(rows * frames * IN_CHANNELS + weights) * setting.itemsize
            + 4 * OUT_CHANNELS * (rows * frames + 1),
            num_ops=2 * rows * frames * weights,
            inputs=inputs,
            call=masked_conv,
            reference=masked_conv_reference,
        )
