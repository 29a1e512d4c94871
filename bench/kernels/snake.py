"""The vocoder's activation, at the rates after its two upsamplings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.snake import snake, snake_reference

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    for channels, frames in ((256, 8 * 86), (128, 64 * 86), (128, 64 * 862)):  # 1 s, 1 s, 10 s

        def inputs(backend: str, channels: int = channels, frames: int = frames) -> tuple[Any, ...]:
            return setting.randn(1, channels, frames), setting.randn(channels).abs()

        yield Case(
            shape=f"1 x {channels} x {frames}",
            num_bytes=2 * channels * frames * setting.itemsize,
            num_ops=0,
            inputs=inputs,
            call=snake,
            reference=snake_reference,
        )
