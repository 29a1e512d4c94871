"""A network that can be exported: where its weights come from, what is traced, what the file takes and gives,
and how it is compared with PyTorch. `parts.py` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import ConfigError

if TYPE_CHECKING:
    import onnx

__all__ = [
    "PRECISIONS",
    "Bound",
    "Compared",
    "EnginePlan",
    "Part",
    "Port",
    "Precision",
    "Run",
    "Source",
    "SourceOf",
]

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""And what products are computed in, but for those that int8 computes in int8."""

Compared = tuple[Sequence[Tensor], Sequence[Tensor]]
"""What a file gave and what PyTorch gave: row by row, of the same shapes, without padding."""


class Run(Protocol):
    def __call__(self, *given: Tensor) -> list[Tensor]:
        """All outputs of the exported network for its inputs, in order."""
        ...


class Source(Protocol):
    """Weights in memory, and the files that they were read from."""

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of each file, by name"""
        ...


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    shape: tuple[str | int, ...]
    """An axis of any size by its name, such as batch or frames; others by their size"""
    dtype: torch.dtype = torch.float32
    num_ids: int | None = None
    """Of ids: they are 0 to this less one."""


@dataclass(frozen=True)
class Bound:
    """What an export may be off by."""

    largest: float
    """Of the differences, or of these divided by the largest expected value"""
    is_relative: bool
    is_rms: bool = False
    """Whether it bounds, instead of the largest, the root mean square of the differences, divided by that of
    the expected values: noise to signal. For sound, of which a single sample says little."""


S = TypeVar("S", bound=Source)
T = TypeVar("T")


Tries = Iterator[Mapping[str, Tensor]]
"""Inputs by name, one row each; also under names that a file may call them by, too"""


@dataclass(frozen=True, eq=False)
class EnginePlan(Generic[T]):
    """How engines of TensorRT are made of a part's file."""

    profiles: tuple[Profile, ...]
    """Unless others are asked for"""
    tries: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, int]], Tries]
    """What ranges are measured on; see `tries.py`"""
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    """Names of tensors in the graph. The engine is of what lies between them; None: those of the file."""
    rest: tuple[str, ...] = ()
    """Outputs of a second ONNX file, which is written beside the engine: the part of the network that the
    engine leaves out, and that makes its inputs."""
    why: str = ""
    """What the engine leaves out, and why"""
    compare: Callable[[T, Run], Mapping[str, Compared]] | None = None
    """Computes a batch by an engine, if otherwise than by a file"""
    results: tuple[str, ...] | None = None
    """Those of a part's results that the engine has; None: all"""


@dataclass(frozen=True, eq=False)
class Part(Generic[S, T]):
    """One kind of network. S: its source; T: a batch that files are tried with."""

    kind: str
    """Its name in the command line and in a file's metadata"""
    file: str
    """What its file is called."""
    about: str
    """What it computes, in a few words"""
    folder: Literal["codec", "model"]
    """Where its weights are."""
    read: Callable[[Path], S]
    """Reads them, on the CPU in float32. Parts that share this function share what it returns. Raises
    CheckpointError."""
    inputs: Callable[[S], tuple[Port, ...]]
    outputs: Callable[[S], tuple[Port, ...]]
    graph: Callable[[S, Precision, onnx.ModelProto | None], onnx.ModelProto]
    """The network; see `onnx_file.traced`. It is given the graph of `base`, which it must not change."""
    weights: Callable[[S], str]
    """A hash of the weights and of what their shapes do not say; see `codec.exported.fingerprint`"""
    size: str
    """The axis that batches differ in, beside the number of rows: frames, units, ..."""
    batches: tuple[tuple[int, ...], ...]
    """What files are tried with: the size of each row"""
    quick_batches: tuple[tuple[int, ...], ...]
    trial: Callable[[S, Sequence[int], torch.Generator], T]
    """Makes a batch of rows of these sizes, padded with numbers that must not matter, and what PyTorch
    computes of each row by itself. Parts that share this function share what it returns."""
    compare: Callable[[T, Run], Mapping[str, Compared]]
    """Computes the batch by a file; the results and what was expected, by what they are called in `bounds`"""
    bounds: Mapping[Precision, Mapping[str, Bound]]
    """The precisions that it has, and what each may be off by"""
    engine: EnginePlan[T]
    """How engines are made of its file"""
    base: Part[S, Any] | None = None
    """The part whose graph this one is made around."""
    may_loop: bool = False
    """Whether the graph has a Loop."""
    other_files: tuple[str, ...] = ()
    """What its file may be called, too."""
    is_there: Callable[[Path], bool] = lambda _: True
    """Whether a folder has such a network; `export all` leaves out what is not there."""
    has: Callable[[S, Precision], bool] = lambda _, __: True
    """Whether these weights can be written in a precision of `bounds`; in fp32, all can."""
    no_engine: Callable[[S], str] = lambda _: ""
    """Why no engine can be made of these weights; empty if one can"""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *self.other_files)

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The sizes that it is compared at: from and to."""
        sizes = [size for batch in self.batches for size in batch]
        rows = [len(batch) for batch in self.batches]
        return {"batch": (min(rows), max(rows)), self.size: (min(sizes), max(sizes))}

    def precision_of(self, source: S, precision: Precision, *, or_fp32: bool = False) -> Precision:
        """`precision`, for these weights."""
        own = self.precision(precision, or_fp32=or_fp32)
        if self.has(source, own):
            return own
        if or_fp32:
            return "fp32"
        raise ConfigError(
            f"precision: expected fp32 for this {self.kind}, which is copied as it is, got {precision!r:.40}"
        )

    def precision(self, precision: Precision, *, or_fp32: bool = False) -> Precision:
        """The one that it is written in: this one, or fp32 if it does not have it and `or_fp32`. Raises
        ConfigError if it does not have it."""
        if precision in self.bounds:
            return precision
        if or_fp32:
            return "fp32"
        expected = " or ".join(self.bounds)
        raise ConfigError(f"precision: expected {expected} for {self.kind}, got {precision!r:.40}")


class SourceOf(Protocol):
    def __call__(self, part: Part[Any, Any], /) -> Any:
        """The weights of a part."""
        ...
