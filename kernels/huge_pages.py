"""Huge pages for what is read from memory in every step: weights and the KV cache."""

from __future__ import annotations

from torch import Tensor

from antiphon.kernels.registry import cpp_available

__all__ = ["advise_huge_pages"]


def advise_huge_pages(unwritten: Tensor) -> None:
    """Asks for huge pages for a new tensor on the CPU: the processor prefetches only within a page, and keeps
    the addresses of few pages at hand. Only a hint: it does nothing where the system has none to give."""
    if cpp_available() and unwritten.device.type == "cpu":
        from antiphon.kernels import _C

        _C.advise_huge_pages(unwritten.data_ptr(), unwritten.numel() * unwritten.element_size())
