"""The first half of a transformer layer of the flow's estimator, both rows of guidance included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.norm_attention import norm_attention, norm_attention_reference

__all__ = ["cases"]

CHANNELS, HEADS, HEAD_DIM, EPS = 256, 8, 64, 1e-5  # of the released flow


def cases(setting: Setting) -> Iterator[Case]:
    inner = HEADS * HEAD_DIM
    for rows, frames in ((2, 43), (2, 86), (16, 129)):  # 1 s at half the frames and at all, eight of 3 s

        def inputs(backend: str, rows: int = rows, frames: int = frames) -> tuple[Any, ...]:
            norm = setting.randn(CHANNELS).float(), setting.randn(CHANNELS).float()
            weight = setting.randn(3 * inner, CHANNELS, scale=0.06)
            return setting.randn(rows, frames, CHANNELS).float(), *norm, EPS, weight, HEADS

        yield Case(
            shape=f"{rows} x {frames} x {CHANNELS}, {HEADS} heads",
            num_bytes=4 * CHANNELS * (rows * frames + 2)
            + inner * (3 * CHANNELS + rows * frames) * setting.itemsize,
            num_ops=2 * rows * frames * inner * (3 * CHANNELS + 2 * frames),
            inputs=inputs,
            call=norm_attention,
            reference=norm_attention_reference,
        )
