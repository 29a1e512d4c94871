"""What the sections of a device check measure, and on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from antiphon.bench.sizes import Sizes, read_sizes
from antiphon.bench.timing import Call, time_in_turns

__all__ = ["Figure", "Machine", "Section"]


@dataclass(frozen=True)
class Figure:
    """A number, and what it could be at best if everything else took no time."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    """In the same unit: the bytes that have to be read, at the machine's bandwidth"""
    note: str = ""

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Machine:
    device: torch.device
    bandwidth_bytes_per_s: float
    is_small: bool = False
    """A dry run: small shapes, few repeats, the packaged model"""

    @property
    def sizes(self) -> Sizes:
        return Sizes(64, 128, 4, 2, 16, 2, 1, 500, 100) if self.is_small else read_sizes("8b")

    @property
    def dtype(self) -> torch.dtype:
        """That of the released weights; float32 on a CPU, whose products know no other."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def randn(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).mul_(scale).to(self.dtype)

    def time_us(self, *calls: Call, recordable: bool = True) -> float:
        """Microseconds of a call: replayed as a CUDA graph, the calls, which should read different memory,
        in turn."""
        repeats = 1 if self.is_small else 15
        timing = time_in_turns({"": list(calls)}, self.device, repeats=repeats, recordable=recordable)
        return 1e6 * timing[""].median_s

    def floor_us(self, num_bytes: float) -> float:
        return 1e6 * num_bytes / self.bandwidth_bytes_per_s

    def some(self, values: Sequence[Any], few: int = 1) -> Sequence[Any]:
        """All of them, the first few in a dry run."""
        return values[:few] if self.is_small else values


Section = Callable[[Machine], Iterator[Figure]]
