"""The products of a layer, for a step of one request and of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels import linear

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    sizes, itemsize = setting.sizes, setting.itemsize
    gate_up, down = (sizes.hidden, 2 * sizes.intermediate), (sizes.intermediate, sizes.hidden)
    for rows in (1, 4, 16, 64, 256):
        for n, m in (gate_up, down):

            def inputs(backend: str, rows: int = rows, n: int = n, m: int = m) -> tuple[Any, ...]:
                return setting.randn(rows, n), linear(setting.randn(m, n, scale=n**-0.5), backend=backend)

            yield Case(
                shape=f"{rows} x {n} x {m}",
                num_bytes=(m * n + rows * (m + n)) * itemsize,
                num_ops=2 * rows * m * n,
                inputs=inputs,
                call=_call,
                reference=lambda x, weight: F.linear(x, weight.weight),
            )


def _call(x: Tensor, weight: Any, *, backend: str) -> object:
    return weight(x)
