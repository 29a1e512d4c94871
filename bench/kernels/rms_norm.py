"""The norm in front of a layer's parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.rms_norm import rms_norm, rms_norm_reference

__all__ = ["ROWS", "cases"]

ROWS = (1, 16, 64, 1024)
EPS = 1e-5


def cases(setting: Setting) -> Iterator[Case]:
    hidden = setting.sizes.hidden
    for rows in ROWS:

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            return setting.randn(rows, hidden), setting.randn(hidden), EPS

        yield Case(
            shape=f"{rows} x {hidden}",
            num_bytes=(2 * rows + 1) * hidden * setting.itemsize,
            num_ops=0,
            inputs=inputs,
            call=rms_norm,
            reference=rms_norm_reference,
        )
