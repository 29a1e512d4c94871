"""`csrc/cuda/ctc_collapse.cu`: one launch."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from antiphon.kernels.cuda.library import call, library

__all__ = ["ctc_collapse"]

ARGUMENTS: list[type[ctypes._SimpleCData[Any]]] = [ctypes.c_void_p] * 8
ARGUMENTS += [ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p]


def ctc_collapse(
    labels: Tensor,
    cu_seqlens: Tensor,
    blank: int,
    prev: Tensor | None,
    functions: ctypes.CDLL | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ids and frames, as long as the labels, of which the first cu_out[-1] are written; cu_out; last.

    functions: a library to use instead of the packaged one
    """
    labels, cu_seqlens = labels.contiguous(), cu_seqlens.contiguous()
    prev = None if prev is None else prev.contiguous()
    ids, frames = torch.empty_like(labels), torch.empty_like(labels)
    cu_out, last = torch.empty_like(cu_seqlens), torch.empty_like(cu_seqlens[1:])
    state = torch.empty(len(cu_seqlens), dtype=torch.int64, device=labels.device)
    collapse = (functions or library()).antiphon_ctc_collapse
    collapse.argtypes = ARGUMENTS
    tensors = (labels, cu_seqlens, prev, ids, frames, cu_out, last, state)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    stream = torch.cuda.current_stream(labels.device).cuda_stream if labels.is_cuda else 0
    call(collapse, *addresses, len(last), len(labels), blank, stream)
    return ids, frames, cu_out, last
