"""Soft text embeddings: softmax(H W^T) E, attention of speech over the text vocabulary.

The input of Stream-Omni's LLM for a spoken prompt (arXiv 2506.13642, 3.2): one position per frame,
each the mean of all text embeddings weighted by the CTC head's probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

import torch
from torch import Tensor

from antiphon.kernels.argmax import ordinary
from antiphon.kernels.argmax_head import check_head, plain_weight, triton_weight
from antiphon.kernels.checks import address, check
from antiphon.kernels.linear import FORMATS, CppLinear, Linear, widens, with_dense_rows
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized import QuantizedWeight, check_quantized
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton_floats,
    register,
    resolve,
    triton_available,
)

__all__ = ["soft_embedding", "soft_embedding_reference"]

# They bound the memory that probabilities take. A GPU multiplies 256 rows in little more time than it reads
# the weights, and has 200 MB to spare.
ROWS_AT_A_TIME = 96
ROWS_AT_A_TIME_ON_GPU = 256

Table: TypeAlias = "Tensor | QuantizedWeight"
Mix: TypeAlias = Callable[[Tensor, Linear, Table], "tuple[Tensor, Tensor]"]


def soft_embedding(
    hidden: Tensor, head: Linear, embedding: Tensor | QuantizedWeight, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """hidden (rows, n), head (n, vocab), embedding (vocab, n) -> embeddings (rows, n), labels int64 (rows)

    The embedding is of the dtype of `hidden`; or in 8 bits; or of 16 bits and widened, if `hidden` is float32
    on the CPU. The label is the first of the likeliest ids, as in `argmax`. Raises ValueError naming the
    argument that does not fit.
    """
    check_head(hidden, head)
    shape = (head.out_features, head.in_features)
    learned = [hidden, plain_weight(head)]
    if isinstance(embedding, QuantizedWeight):
        check_quantized("embedding", embedding)
        check("embedding.values", embedding.values, torch.int8, shape, ("hidden", hidden))
    else:
        dtypes = (torch.float32, torch.bfloat16, torch.float16) if widens(hidden, embedding) else hidden.dtype
        check("embedding", embedding, dtypes, shape, ("hidden", hidden))
        learned.append(embedding)
    mix: Mix = resolve("soft_embedding", backend, hidden.device, hidden.dtype, *learned)
    return mix(hidden, head, embedding)


def _in_parts(mix: Mix) -> Mix:
    """Decorates an implementation that should get only a bounded number of rows at a time."""

    @wraps(mix)
    def mix_parts(hidden: Tensor, head: Linear, embedding: Table) -> tuple[Tensor, Tensor]:
        total = hidden.shape[0]
        most = ROWS_AT_A_TIME_ON_GPU if hidden.is_cuda else ROWS_AT_A_TIME
        if total <= most:
            return mix(hidden, head, embedding)
        out, labels = torch.empty_like(hidden), hidden.new_empty(total, dtype=torch.int64)
        size = -(-total // -(-total // most))  # even parts: 100 rows are 50 + 50, not 96 + 4
        for start in range(0, total, size):
            rows = slice(start, start + size)
            out[rows], labels[rows] = mix(hidden[rows], head, embedding)
        return out, labels

    return mix_parts


@register("soft_embedding", "cpp", is_available=cpp_available, supports=cpp_float32)
def _soft_embedding_cpp(hidden: Tensor, head: Linear, embedding: Table) -> tuple[Tensor, Tensor]:
    from antiphon.kernels import _C

    if not isinstance(head, CppLinear):
        return soft_embedding_reference(hidden, head, embedding)
    scales, table = None, embedding
    if isinstance(embedding, QuantizedWeight):
        scales, table = embedding.scales.contiguous(), embedding.values
    assert isinstance(table, Tensor)
    hidden, table = with_dense_rows(hidden), with_dense_rows(table)
    out = hidden.new_empty(hidden.shape[0], table.shape[1])
    labels = hidden.new_empty(hidden.shape[0], dtype=torch.int64)
    _C.soft_embedding(
        address(hidden),
        head.packed,
        (address(table), 0 if scales is None else address(scales), FORMATS[table.dtype]),
        address(out),
        address(labels),
        hidden.shape[0],
        hidden.shape[1],
        table.shape[0],
        table.shape[1],
        hidden.stride(0),
        table.stride(0),
    )
    return out, labels


@register("soft_embedding", "triton", is_available=triton_available, supports=on_triton_floats)
@_in_parts
def _soft_embedding_triton(hidden: Tensor, head: Linear, embedding: Table) -> tuple[Tensor, Tensor]:
    weight = triton_weight(hidden, head)
    if weight is None:
        return soft_embedding_reference(hidden, head, embedding)
    from antiphon.kernels.triton.soft_embedding import soft_embedding as launch

    return launch(hidden, weight, embedding)


@register("soft_embedding", "torch")
@_in_parts
def soft_embedding_reference(hidden: Tensor, head: Linear, embedding: Table) -> tuple[Tensor, Tensor]:
    logits = at_least_float32(head(hidden))
    if isinstance(embedding, QuantizedWeight):
        embedding = embedding.dequantized()
    elif widens(hidden, embedding):
        embedding = embedding.float()
    mixed = logits.softmax(-1).to(embedding.dtype) @ embedding
    return mixed.to(hidden.dtype), ordinary(logits).argmax(-1)
