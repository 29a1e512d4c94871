"""Writes a checkpoint with int8 weights: whole or not at all, in little memory, and resumable.

Shards are laid out before anything is computed, so each tensor is read, quantized in slices of rows and
written to its place. All is written into a hidden folder beside the target, and renamed at the end. A run
that was ended leaves it behind, and the next one keeps the shards that are complete.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import is_folder, is_there, read_json, shortened, shown
from antiphon.kernels.quantized import quantize_int8
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import Progress, checked_files, reporting
from antiphon.model.checkpoint.quantization import SCALE_SUFFIX, quantization_config, scheme_of
from antiphon.model.checkpoint.quantizing import kept_names, matrix_names
from antiphon.model.checkpoint.shards import INDEX, SINGLE, TensorEntry, TensorFiles, read_headers
from antiphon.model.schemes import FileScheme

__all__ = ["Sizes", "write_quantized"]

MAX_SHARD_BYTES = 4 * 2**30
SLICE_ELEMENTS = 2**22
"""Numbers of a matrix that are quantized at a time."""
STATE = "state.json"
WEIGHT_FILES = ("*.safetensors", INDEX, "pytorch_model*.bin*", "*.gguf", "*.incomplete", ".*")
"""Not copied from the folder itself: weights in any form, and what version control and downloads keep."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 8),
}


class Sizes(NamedTuple):
    """Bytes of the weights."""

    source: int
    target: int


def write_quantized(
    source: Path,
    target: Path,
    scheme: FileScheme,
    *,
    keep: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool | Progress = False,
) -> Sizes:
    """Write the checkpoint `source` as the folder `target`, its matrices quantized as `load_weights` would.

    Args:
        keep: patterns of modules that stay as they are, see `kept_names`.
        max_shard_bytes: bound on the tensors of one file, unless it holds only one.
        progress: see `load_weights`.

    Raises:
        CheckpointError: `source` cannot be loaded, or is quantized already.
        ConfigError: `target` exists, or another process is writing it; a pattern names nothing, or they name
            everything.
        OSError: it cannot be written.
    """
    config = read_config(source)
    if (found := scheme_of(source)) is not None:
        raise CheckpointError(
            f"{source}: expected a checkpoint that is not quantized, found one in {found.name} (by the "
            "quantization_config of its config.json); it is loaded as it is"
        )
    tensors, _ = checked_files(source, config)
    _check_target(source, target)
    files = read_headers(source)
    matrices = frozenset(matrix_names(config)) - kept_names(config, keep, in_files=True, setting="--keep")
    if not matrices:
        raise ConfigError(f"--keep: expected patterns that leave something to quantize, got {shown([*keep])}")
    plan = _plan(files, matrices, max_shard_bytes)
    sizes = Sizes(
        sum(_num_bytes(entry) for entry in files.entries.values()), sum(shard.num_bytes for shard in plan)
    )
    work = target.parent / f".{target.name}.antiphon-quantize"
    state: dict[str, Any] = {"source": _identity(source)}
    if keep:
        state["keep"] = sorted(keep)
    state |= {"shards": {shard.name: shard.num_bytes for shard in plan}}
    with _begun(work, state, target) as folder, reporting(progress, sizes.source, "quantizing") as report:
        for shard in plan:
            _write_shard(folder, shard, files, report)
        _copy_others(source, folder)
        _write_index(folder, plan)
        kept = _kept_modules(tensors, matrices)
        settings = read_json(source / "config.json")
        settings["quantization_config"] = quantization_config(scheme, kept)
        _write_json(folder / "config.json", settings)
        checked_files(folder, read_config(folder))
        folder.rename(target)
    return sizes


# --- where it is written --------------------------------------------------------------------------


def _check_target(source: Path, target: Path) -> None:
    if is_there(target):
        found = "a folder" if is_folder(target) else "a file"
        raise ConfigError(f"{target}: expected the name of a new folder, found {found}")
    if not target.name or target.name == ".." or not is_folder(target.parent):
        raise ConfigError(f"{target}: expected the name of a new folder, but there is no {target.parent}")
    if target.parent.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target}: expected a folder outside {source}, got one inside")


def _identity(source: Path) -> dict[str, list[int]]:
    """Size and time of each file, by which a source that has changed is told."""
    found = {}
    for path in _files(source):
        status = path.stat()
        found[str(path.relative_to(source))] = [status.st_size, status.st_mtime_ns]
    return found


def _files(folder: Path, seen: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All regular files of a folder. Links are followed, but not in circles."""
    real = folder.resolve()
    if real in seen:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith("."):
                yield from _files(path, (*seen, real))
        elif path.is_file():
            yield path


@contextmanager
def _begun(work: Path, state: dict[str, Any], target: Path) -> Iterator[Path]:
    """The folder to write to: what an earlier run has left for the same state, or else an empty one."""
    if is_there(work) and not _is_ours(work):
        raise ConfigError(f"{work}: expected what an earlier run has left for {target}, found something else")
    work.mkdir(exist_ok=True)
    descriptor = os.open(work / STATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with FileIO(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{target}: expected to be its only writer, found another process") from None
        folder = work / "folder"
        content = json.dumps(state).encode()
        if file.read() != content:
            if is_there(folder):
                shutil.rmtree(folder)
            file.seek(0)
            file.truncate()
            file.write(content)
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except CheckpointError:  # the next run would meet it again
            shutil.rmtree(work)
            raise
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror or str(error), os.fspath(target)) from error
        shutil.rmtree(work)


def _is_ours(work: Path) -> bool:
    return is_folder(work) and {path.name for path in work.iterdir()} <= {STATE, "folder"}


# --- shards ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    name: str
    header: bytes
    """With its length in front"""
    begins: dict[str, int]
    """Of each tensor, in the file"""
    sources: list[str]
    """The tensors of the source that are written"""
    num_bytes: int


def _plan(files: TensorFiles, matrices: frozenset[str], max_shard_bytes: int) -> list[_Shard]:
    groups: list[list[str]] = []
    size = 0
    for name, entry in files.entries.items():
        added = sum(_num_bytes(written) for written in _written(entry, matrices))
        if not groups or size + added > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += added
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    return [
        _laid_out(name, [files.entries[held] for held in group], matrices)
        for name, group in zip(names, groups, strict=True)
    ]


def _laid_out(name: str, sources: list[TensorEntry], matrices: frozenset[str]) -> _Shard:
    entries = list(chain.from_iterable(_written(entry, matrices) for entry in sources))
    # Each begins at a multiple of its numbers' size, which readers rely on.
    entries.sort(key=lambda entry: -_bits(entry))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins, end = {}, 0
    for entry in entries:
        begins[entry.name], begin = end, end
        end += _num_bytes(entry)
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    return _Shard(
        name,
        len(text).to_bytes(8, "little") + text,
        {held: first + begin for held, begin in begins.items()},
        [entry.name for entry in sources],
        first + end,
    )


def _written(entry: TensorEntry, matrices: frozenset[str]) -> list[TensorEntry]:
    """What is written of a tensor."""
    if entry.name not in matrices:
        return [entry]
    return [
        TensorEntry(entry.file, entry.name, entry.shape, "I8"),
        TensorEntry(entry.file, entry.name + SCALE_SUFFIX, (entry.shape[0], 1), "F32"),
    ]


def _bits(entry: TensorEntry) -> int:
    if entry.dtype not in BITS:
        raise CheckpointError(
            f"{entry.file}: {shortened(entry.name)}: expected one of {', '.join(BITS)}, "
            f"found {shortened(entry.dtype)}"
        )
    return BITS[entry.dtype]


def _num_bytes(entry: TensorEntry) -> int:
    return math.prod(entry.shape) * _bits(entry) // 8


def _write_shard(folder: Path, shard: _Shard, files: TensorFiles, report: Callable[[int], None]) -> None:
    path = folder / shard.name
    if is_there(path):  # by an earlier run: it has this name once it is whole
        report(sum(_num_bytes(files.entries[name]) for name in shard.sources))
        return
    part = folder / f"{shard.name}.part"
    with part.open("wb", buffering=0) as file:
        _write_all(file, shard.header)
        for name, tensor in files.read(shard.sources):
            entry = files.entries[name]
            if name + SCALE_SUFFIX in shard.begins:
                _write_quantized(file, shard.begins, entry, tensor)
            else:
                file.seek(shard.begins[name])
                _write_all(file, _bytes(tensor))
            report(_num_bytes(entry))
        os.fsync(file.fileno())
    part.rename(path)


def _write_quantized(file: FileIO, begins: Mapping[str, int], entry: TensorEntry, matrix: Tensor) -> None:
    rows, columns = matrix.shape
    step = max(1, SLICE_ELEMENTS // columns)
    for row in range(0, rows, step):
        try:
            weight = quantize_int8(matrix[row : row + step])
        except ValueError as error:
            raise CheckpointError(
                f"{entry.file}: {entry.name}: expected finite numbers, found NaN or infinity"
            ) from error
        file.seek(begins[entry.name] + row * columns)
        _write_all(file, _bytes(weight.values))
        file.seek(begins[entry.name + SCALE_SUFFIX] + 4 * row)
        _write_all(file, _bytes(weight.scales))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _write_all(file: FileIO, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


# --- the other files ------------------------------------------------------------------------------


def _copy_others(source: Path, folder: Path) -> None:
    for path in _files(source):
        name = path.relative_to(source)
        if len(name.parts) == 1 and any(name.match(pattern) for pattern in WEIGHT_FILES):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _write_index(folder: Path, plan: list[_Shard]) -> None:
    if len(plan) > 1:
        size = sum(shard.num_bytes - len(shard.header) for shard in plan)
        places = {name: shard.name for shard in plan for name in shard.begins}
        _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def _kept_modules(files: TensorFiles, matrices: frozenset[str]) -> list[str]:
    """The modules with a matrix that is not among these."""
    return [
        name.removesuffix(".weight")
        for name, entry in files.entries.items()
        if name.endswith(".weight") and name not in matrices and len(entry.shape) > 1
    ]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
