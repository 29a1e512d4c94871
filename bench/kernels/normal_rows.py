"""The noise of the vocoder's source: 9 waves of 256 samples a mel frame, for chunks of 1 s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.normal_rows import normal_rows, normal_rows_reference

__all__ = ["cases"]

WIDTH = 9 * 256
FRAMES = 86


def cases(setting: Setting) -> Iterator[Case]:
    for streams in (1, 16):

        def inputs(backend: str, streams: int = streams) -> tuple[Any, ...]:
            seeds = torch.arange(streams, device=setting.device)
            return seeds, 1000 * seeds, 3, FRAMES, WIDTH

        yield Case(
            shape=f"{streams} x {FRAMES} x {WIDTH}",
            num_bytes=4 * streams * FRAMES * WIDTH,
            num_ops=0,
            inputs=inputs,
            call=normal_rows,
            reference=normal_rows_reference,
        )
