"""Which safetensors file of a folder holds which tensor, of what shape and type. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from antiphon.errors import CheckpointError
from antiphon.model.settings import read_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TensorEntry", "TensorFiles", "read_headers"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as a file's header describes it."""

    file: Path
    name: str
    """As the file has it; `TensorFiles` may list the tensor under a longer name."""
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it: "F32", "F16", "BF16", ..."""


@dataclass(frozen=True)
class TensorFiles:
    """All tensors of a folder."""

    path: Path
    """What an error about a missing tensor names: the single file or the index."""
    entries: dict[str, TensorEntry]

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Each named tensor on the CPU, memory-mapped: file after file, each opened once."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.entries[name].file, []).append(name)
        for file, held in by_file.items():
            with _opened(file) as tensors:
                for name in held:
                    yield name, tensors.get_tensor(self.entries[name].name)


def read_headers(folder: Path) -> TensorFiles:
    """The tensors of `model.safetensors`, or else of the shards that `model.safetensors.index.json` lists.

    Raises:
        CheckpointError: there is neither; a file is missing, truncated or corrupt; index and shards
            disagree.
    """
    if (folder / SINGLE).is_file():
        return TensorFiles(folder / SINGLE, _read_header(folder / SINGLE))
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: expected {SINGLE} or {INDEX}, found neither")
    return _read_shards(folder / INDEX)


def _read_shards(index: Path) -> TensorFiles:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: weight_map: expected an object that is not empty, found {weight_map!r}"
        )
    for name, file in weight_map.items():
        # A shard lies beside its index: a path would let a checkpoint point anywhere on the disk.
        if not isinstance(file, str) or PurePath(file).name != file:
            raise CheckpointError(f"{index}: {name}: expected the name of a file, found {file!r}")
    entries: dict[str, TensorEntry] = {}
    for file in sorted(set(weight_map.values())):
        shard = index.parent / file
        if not shard.is_file():
            named = next(name for name, other in weight_map.items() if other == file)
            raise CheckpointError(f"{shard}: no such file, but {index.name} puts {named} in it")
        held = _read_header(shard)
        for name, other in weight_map.items():
            if other == file and name not in held:
                raise CheckpointError(f"{shard}: {name}: expected by {index.name}, found no such tensor")
        for name in held:
            if weight_map.get(name) != file:
                place = weight_map.get(name, "in no file")
                raise CheckpointError(f"{shard}: {name}: found here, but {index.name} puts it {place}")
        entries |= held
    return TensorFiles(index, entries)


def _read_header(file: Path) -> dict[str, TensorEntry]:
    entries = {}
    with _opened(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping: it has keys() only)
            view = tensors.get_slice(name)
            entries[name] = TensorEntry(file, name, tuple(view.get_shape()), view.get_dtype())
    return entries


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; what is wrong with it is a `CheckpointError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        size = file.stat().st_size
        raise CheckpointError(
            f"{file}: expected a whole safetensors file, found {size} bytes that are none "
            f"(truncated or corrupt): {error}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
