"""The gate between an MLP's products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.silu_mul import silu_mul, silu_mul_reference

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    n = setting.sizes.intermediate
    for rows in (1, 16, 64, 1024):

        def inputs(backend: str, rows: int = rows) -> tuple[Any, ...]:
            return (setting.randn(rows, 2 * n),)

        yield Case(
            shape=f"{rows} x {n}",
            num_bytes=3 * rows * n * setting.itemsize,
            num_ops=0,
            inputs=inputs,
            call=silu_mul,
            reference=silu_mul_reference,
        )
