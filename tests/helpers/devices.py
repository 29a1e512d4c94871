"""Where the tensors of a test of kernels belong."""

from __future__ import annotations

import torch

__all__ = ["device_of"]


def device_of(backend: str) -> torch.device:
    """The GPU for its backends, if there is one; otherwise the CPU, where Triton interprets."""
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    return torch.device("cuda:0" if on_gpu else "cpu")
