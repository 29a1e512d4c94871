"""Products by bitsandbytes, a library that need not be installed: its 8 bits and its 4 bits.

They are the library's own, so on a CPU a row's result may depend on its batch by the rounding of sums.
"""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check

__all__ = ["LibraryLinear", "LibraryWeight", "quantize_4bit", "quantize_8bit"]

PACKED_INPUTS, PACKED_OUTPUTS = 64, 32
LOGGERS = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")
KNOWN = ("MatMul8bitLt: inputs will be cast", "Failed to load CPU gemm_4bit_forward from kernels-community")
"""What the library logs at each product in float32, and at import"""


@dataclass(frozen=True, eq=False)
class LibraryWeight:
    """A matrix (out, in) inside one of the library's modules."""

    module: Any
    out_features: int
    in_features: int
    num_bytes: int
    """Of its numbers and its scales"""


def quantize_8bit(weight: Tensor, threshold: float) -> LibraryWeight:
    """LLM.int8(): weight (out, in) -> int8, with a scale for each output. threshold: columns of x with larger
    numbers are multiplied in 16 bits where the library does that. Raises ModuleNotFoundError."""
    nn = _library().nn
    out_features, in_features = weight.shape
    module = nn.Linear8bitLt(
        in_features, out_features, bias=False, has_fp16_weights=False, threshold=threshold, device="meta"
    )
    module.weight = nn.Int8Params(weight.detach(), requires_grad=False, has_fp16_weights=False)
    module.to(weight.device)
    num_bytes = out_features * in_features + 4 * out_features
    return LibraryWeight(module.eval(), out_features, in_features, num_bytes)


def quantize_4bit(weight: Tensor, quant_type: str, *, double_quant: bool) -> LibraryWeight:
    """weight (out, in) -> 4 bits, with a scale for each block of numbers; x is multiplied in the weight's
    dtype. double_quant: the scales are quantized, too. Raises ModuleNotFoundError."""
    nn = _library().nn
    out_features, in_features = weight.shape
    module = nn.Linear4bit(
        in_features,
        out_features,
        bias=False,
        compute_dtype=weight.dtype,
        compress_statistics=double_quant,
        quant_type=quant_type,
        device="meta",
    )
    module.weight = nn.Params4bit(
        weight.detach(),
        requires_grad=False,
        compress_statistics=double_quant,
        quant_type=quant_type,
        module=module,
    )
    module.to(weight.device)
    if in_features % PACKED_INPUTS or out_features % PACKED_OUTPUTS:
        # Its layout for AVX-512 with BF16 takes whole blocks alone, and fails in others (0.50.2).
        module.support_avx512bf16_for_cpu = False
    state = module.weight.quant_state
    scales = state.absmax.numel() * state.absmax.element_size()
    if state.state2 is not None:
        scales += 4 * state.state2.absmax.numel()
    return LibraryWeight(module.eval(), out_features, in_features, module.weight.numel() + scales)


def _library() -> Any:
    """bitsandbytes, without lines that say nothing new, and without a download: where the package `kernels`
    is installed, the library's import would fetch machine code from a hub."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    if "bitsandbytes" in sys.modules or "kernels" in sys.modules:
        return importlib.import_module("bitsandbytes")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(KNOWN)


class LibraryLinear:
    """A `Linear`, see `antiphon.kernels.linear`."""

    def __init__(self, weight: LibraryWeight) -> None:
        self.in_features, self.out_features = weight.in_features, weight.out_features
        self.num_bytes = weight.num_bytes
        self._module = weight.module

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        check("x", x, FLOATS, ("rows", self.in_features))
        if residual is not None:
            check("residual", residual, x.dtype, (len(x), self.out_features), ("x", x))
        if not len(x):
            y = x.new_empty(0, self.out_features)
        else:
            with torch.no_grad():
                y = self._module(x)
        return y if residual is None else residual + y
