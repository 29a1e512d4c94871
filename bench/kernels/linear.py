"""The products of a layer, for a step of one request and of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from antiphon.bench.int8_peers import peers
from antiphon.bench.kernels.case import Case, Setting, stored_weight, weight_bytes
from antiphon.kernels import linear

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    sizes = setting.sizes
    gate_up, down = (sizes.hidden, 2 * sizes.intermediate), (sizes.intermediate, sizes.hidden)
    for rows in (1, 4, 16, 64, 256):
        for n, m in (gate_up, down):
            for stored in setting.weights:
                yield _case(setting, rows, n, m, stored)


def _case(setting: Setting, rows: int, n: int, m: int, stored: str) -> Case:
    def inputs(backend: str) -> tuple[Any, ...]:
        weight = stored_weight(setting.randn(m, n, scale=n**-0.5), stored)
        return setting.randn(rows, n), linear(weight, backend=backend)

    is_own = stored == setting.weights[0]
    return Case(
        shape=f"{rows} x {n} x {m}" + ("" if is_own else f", {stored}"),
        num_bytes=weight_bytes(stored, m, n) + rows * (m + n) * setting.itemsize,
        num_ops=2 * rows * m * n,
        inputs=inputs,
        call=_call,
        reference=(lambda x, weight: F.linear(x, weight.weight)) if is_own else None,
        others=peers() if stored == "int8" else {},
    )


def _call(x: Tensor, weight: Any, *, backend: str) -> object:
    return weight(x)
