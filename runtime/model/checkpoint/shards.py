"""Which safetensors file of a folder holds which tensor, with its shape and type. Reads only headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import (
    check_file,
    is_there,
    parse_json,
    read_json,
    refusing_failures,
    shortened,
    shown,
)
from antiphon.plain import one_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TensorEntry", "TensorFiles", "read_headers"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
OTHERS = ("model-*.safetensors", "*.safetensors", "pytorch_model*.bin*", "*.incomplete", "*.gguf")

MAX_FILE_BYTES = 2**40
MAX_HEADER_BYTES = 16 * 2**20
"""The released model, with 815 tensors, has 100 KB."""
MAX_INDEX_BYTES = 16 * 2**20
MAX_DIMENSIONS = 16
MAX_NAME_CHARS = 255
EXPECTED = "a whole safetensors file"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as a file's header describes it."""

    file: Path
    name: str
    """The name in the file; `TensorFiles` may list the tensor under a longer one."""
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
        CheckpointError: neither exists; a file is missing, truncated or corrupt; index and shards
            disagree.
    """
    if is_there(folder / SINGLE):
        return TensorFiles(folder / SINGLE, _read_header(folder / SINGLE))
    if is_there(folder / INDEX):
        return _read_shards(folder / INDEX)
    found = next((path.name for pattern in OTHERS for path in folder.glob(pattern)), None)
    hint = "" if found is None else f" (but {shortened(found)})"
    raise CheckpointError(f"{folder}: expected {SINGLE} or {INDEX}, found neither{hint}")


def _read_shards(index: Path) -> TensorFiles:
    weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: weight_map: expected an object that is not empty, found {shown(weight_map)}"
        )
    by_file: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        # A shard lies beside its index: a path would let a checkpoint point anywhere on the disk.
        if not isinstance(file, str) or not file.isprintable() or not 0 < len(file) <= MAX_NAME_CHARS:
            raise CheckpointError(
                f"{index}: {shortened(name)}: expected the name of a file, found {shown(file)}"
            )
        if PurePath(file).name != file or PureWindowsPath(file).name != file or file == "..":
            raise CheckpointError(
                f"{index}: {shortened(name)}: expected the name of a file, found {shown(file)}"
            )
        by_file.setdefault(file, []).append(name)
    entries: dict[str, TensorEntry] = {}
    for file, names in sorted(by_file.items()):
        shard = index.parent / file
        if not is_there(shard):
            raise CheckpointError(f"{shard}: no such file, but {index.name} puts {shortened(names[0])} in it")
        held = _read_header(shard)
        for name in names:
            if name not in held:
                raise CheckpointError(
                    f"{shard}: {shortened(name)}: expected by {index.name}, found no such tensor"
                )
        for name in held:
            if weight_map.get(name) != file:
                place = shown(weight_map[name]) if name in weight_map else "in no file"
                raise CheckpointError(
                    f"{shard}: {shortened(name)}: found here, but {index.name} puts it {place}"
                )
        entries |= held
    return TensorFiles(index, entries)


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """What the header says, read before the library maps the file: its size first, its contents once."""
    size = check_file(file, EXPECTED, max_bytes=MAX_FILE_BYTES)
    with refusing_failures(file, EXPECTED), file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{file}: expected {EXPECTED}, found {size} bytes, truncated or corrupt: "
                f"its header would have {length}"
            )
        header = content.read(length)
    entries = {}
    for name, value in parse_json(file, header).items():
        if name == "__metadata__":
            continue
        shape, dtype = (value.get("shape"), value.get("dtype")) if isinstance(value, dict) else (None, None)
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_DIMENSIONS
            or not all(type(extent) is int and 0 <= extent < 2**48 for extent in shape)
            or not isinstance(dtype, str)
        ):
            raise CheckpointError(
                f"{file}: {shortened(name)}: expected a tensor's dtype and shape, found {shown(value)}"
            )
        entries[name] = TensorEntry(file, name, tuple(shape), dtype)
    with _opened(file):  # the library checks that the tensors fill the file
        pass
    return entries


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; anything wrong with it becomes a `CheckpointError`."""
    from safetensors import SafetensorError, safe_open

    with refusing_failures(file, EXPECTED):
        try:
            with safe_open(file, framework="pt") as tensors:
                yield tensors
        except SafetensorError as error:
            raise CheckpointError(
                f"{file}: expected {EXPECTED}, found {file.stat().st_size} bytes, truncated or corrupt: "
                f"{one_line(error)}"
            ) from error
