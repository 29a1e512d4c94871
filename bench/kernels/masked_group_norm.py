"""GroupNorm with Mish over padded batches of the flow's estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.masked_group_norm import masked_group_norm, masked_group_norm_reference

__all__ = ["cases"]

CHANNELS, GROUPS, EPS = 256, 8, 1e-5  # of the released flow


def cases(setting: Setting) -> Iterator[Case]:
    for batch, frames in ((2, 86), (2, 862), (16, 258)):  # pairs of guidance: 1 s, 10 s, eight of 3 s

        def inputs(backend: str, batch: int = batch, frames: int = frames) -> tuple[Any, ...]:
            lengths = setting.randint(frames // 2, frames + 1, batch)
            mask = (setting.arange(frames) < lengths[:, None])[:, None].to(setting.dtype)
            affine = setting.randn(CHANNELS), setting.randn(CHANNELS)
            return setting.randn(batch, CHANNELS, frames), *affine, GROUPS, EPS, mask

        yield Case(
            shape=f"{batch} x {CHANNELS} x {frames}",
            num_bytes=batch * frames * (2 * CHANNELS + 1) * setting.itemsize,
            num_ops=0,
            inputs=inputs,
            call=masked_group_norm,
            reference=masked_group_norm_reference,
        )
