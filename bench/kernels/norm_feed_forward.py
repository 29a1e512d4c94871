"""The second half of a transformer layer of the flow's estimator, both rows of guidance included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.norm_feed_forward import FeedForward, norm_feed_forward, norm_feed_forward_reference

__all__ = ["cases"]

CHANNELS, INNER, HIDDEN, EPS = 256, 512, 1024, 1e-5  # of the released flow


def cases(setting: Setting) -> Iterator[Case]:
    weights = CHANNELS * (INNER + 2 * HIDDEN)
    for rows, frames in ((2, 43), (2, 86), (16, 129)):  # 1 s at half the frames and at all, eight of 3 s

        def inputs(backend: str, rows: int = rows, frames: int = frames) -> tuple[Any, ...]:
            vectors = [setting.randn(CHANNELS).float() for _ in range(4)]
            layer = FeedForward(
                out_weight=setting.randn(CHANNELS, INNER, scale=0.04),
                out_bias=vectors[0],
                norm_weight=vectors[1],
                norm_bias=vectors[2],
                up_weight=setting.randn(HIDDEN, CHANNELS, scale=0.06),
                up_bias=setting.randn(HIDDEN).float(),
                down_weight=setting.randn(CHANNELS, HIDDEN, scale=0.03),
                down_bias=vectors[3],
                eps=EPS,
            )
            x = setting.randn(rows, frames, CHANNELS).float()
            return x, setting.randn(rows, frames, INNER), layer

        yield Case(
            shape=f"{rows} x {frames} x {CHANNELS}, {HIDDEN} hidden",
            num_bytes=8 * rows * frames * CHANNELS + (rows * frames * INNER + weights) * setting.itemsize,
            num_ops=2 * rows * frames * weights,
            inputs=inputs,
            call=norm_feed_forward,
            reference=norm_feed_forward_reference,
        )
