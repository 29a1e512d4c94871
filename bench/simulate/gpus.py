"""What the data sheets of GPUs promise, and what an hour of one costs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GPUS", "Gpu"]


@dataclass(frozen=True)
class Gpu:
    """One GPU by its data sheet; products are dense ones, without the doubling by sparsity."""

    name: str
    bytes_per_s: float
    bf16_per_s: float
    """Operations; a multiplication with its addition is two."""
    int8_per_s: float
    memory_bytes: float
    price_per_h: float
    """US dollars: a round figure for an hour of rent, late 2025, to be replaced by one's own."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 1.555e12, 312e12, 624e12, 40e9, 1.50),
        Gpu("a100-80", 2.039e12, 312e12, 624e12, 80e9, 2.00),
        Gpu("h100", 3.35e12, 989e12, 1979e12, 80e9, 3.00),
        Gpu("h200", 4.8e12, 989e12, 1979e12, 141e9, 3.80),
        Gpu("l4", 0.3e12, 121e12, 242e12, 24e9, 0.80),
        Gpu("l40s", 0.864e12, 362e12, 733e12, 48e9, 1.80),
    )
}
"""By name; where there are several kinds, those with SXM and the memory that the name says."""
