"""The norm together with the sum that it is taken of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.bench.kernels.rms_norm import EPS, ROWS
from antiphon.kernels.rms_norm import rms_norm_residual, rms_norm_residual_reference

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    hidden = setting.sizes.hidden
    for rows in ROWS:

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            return setting.randn(rows, hidden), setting.randn(rows, hidden), setting.randn(hidden), EPS

        yield Case(
            shape=f"{rows} x {hidden}",
            num_bytes=(4 * rows + 1) * hidden * setting.itemsize,
            num_ops=0,
            inputs=inputs,
            call=rms_norm_residual,
            reference=rms_norm_residual_reference,
        )
