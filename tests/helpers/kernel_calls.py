"""One small call of each Triton kernel and of each of its variants, for compiling them without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from antiphon.kernels import rms_norm, rms_norm_residual, silu_mul

__all__ = ["CALLS", "DTYPES"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Each call is made in each of them."""

CALLS: dict[str, Callable[[torch.dtype], object]] = {}
"""By name of the op, and of the variant where there are several."""


def call(function: Callable[[torch.dtype], object]) -> Callable[[torch.dtype], object]:
    CALLS[function.__name__] = function
    return function


@call
def silu_mul_rows(dtype: torch.dtype) -> object:
    return silu_mul(torch.zeros(3, 64, dtype=dtype), backend="triton")


@call
def rms_norm_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(3, 64, dtype=dtype)
    return rms_norm(x, x[0], 1e-5, backend="triton")


@call
def rms_norm_residual_rows(dtype: torch.dtype) -> object:
    x = torch.zeros(3, 64, dtype=dtype)
    return rms_norm_residual(x, x, x[0], 1e-5, backend="triton")
