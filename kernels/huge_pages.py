"""Huge pages for what is read from memory in every step: weights and the KV cache."""

from __future__ import annotations

from torch import Tensor

from antiphon.kernels.registry import cpp_available

__all__ = ["advise_huge_pages"]


def advise_huge_pages(unwritten: Tensor) -> None:
    """Asks for them, for a new tensor on the CPU: the processor fetches ahead only within a page, and knows
    the places of few. A hint, which does nothing where there are none to be had."""
    if cpp_available() and unwritten.device.type == "cpu":
        from antiphon.kernels import _C

        _C.advise_huge_pages(unwritten.data_ptr(), unwritten.numel() * unwritten.element_size())
