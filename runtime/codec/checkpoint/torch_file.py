"""Reads what `torch.save` writes, in both of its formats, within bounds set by the file's own size."""

from __future__ import annotations

import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from antiphon.codec.checkpoint.plain_pickle import Storage, read_pickle_stream
from antiphon.files.checkpoint import check_file, refusing_failures

__all__ = ["read_torch_file"]

EXPECTED = "tensors in a whole torch file and nothing that runs"
MAX_FILE_BYTES = 8 * 2**30
"""The released flow has 420 MB."""
MAX_PICKLE_BYTES = 4 * 2**20
MAX_DIRECTORY_BYTES = 16 * 2**20

# The older format: five pickles, then for each storage its length and its numbers.
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

END = b"PK\x05\x06"
END_BYTES = 22
MAX_COMMENT_BYTES = 2**16
LOCATOR = b"PK\x06\x07"
LOCATOR_BYTES = 20
WIDE_END_BYTES = 56
LOCAL_BYTES = 30


def read_torch_file(path: Path) -> Any:
    """The content of a `torch.save` file: plain values, lists, tuples, dicts and dense tensors on the CPU.

    Nothing is executed, and memory stays below the file's size. Raises CheckpointError.
    """
    size = check_file(path, EXPECTED, max_bytes=MAX_FILE_BYTES, magic=b"PK")
    with refusing_failures(path, EXPECTED), path.open("rb") as file:
        if file.read(2) == b"PK":
            return _Archive(file, size).read()
        return _read_old(file, size)


class _Budget:
    """How many bytes of storages may still be read: each byte of the file counts once."""

    def __init__(self, size: int) -> None:
        self._left = size

    def numbers(self, file: IO[bytes], offset: int, storage: Storage) -> Tensor:
        """The numbers at `offset`."""
        size = storage.num_elements * storage.dtype.itemsize
        self._left -= size
        if storage.num_elements < 0 or self._left < 0:
            raise ValueError("more numbers than the file has bytes for")
        if size == 0:
            return torch.empty(0, dtype=storage.dtype)
        buffer = bytearray(size)
        file.seek(offset)
        if file.readinto(buffer) != size:  # type: ignore[attr-defined]
            raise ValueError("the end of the file within a tensor")
        return torch.frombuffer(buffer, dtype=storage.dtype)


class _Archive:
    """The newer format: a zip file of uncompressed entries."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._budget = _Budget(size)
        _check_directory(file, size)
        self._entries = {entry.filename: entry for entry in zipfile.ZipFile(file).infolist()}
        roots = [name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"found a zip file with {len(roots)} entries data.pkl")
        self._root = roots[0]

    def read(self) -> Any:
        if f"{self._root}constants.pkl" in self._entries:
            raise ValueError("found a TorchScript program")
        if self._bytes("byteorder", b"little") != b"little":
            raise ValueError("found numbers with the highest byte first")
        return read_pickle_stream(BytesIO(self._bytes("data.pkl")), self._load)

    def _load(self, storage: Storage) -> Tensor:
        offset, size = self._place(f"data/{storage.key}")
        if size != storage.num_elements * storage.dtype.itemsize:
            raise ValueError(f"found {size} bytes for {storage.num_elements} numbers of {storage.dtype}")
        return self._budget.numbers(self._file, offset, storage)

    def _bytes(self, name: str, default: bytes | None = None) -> bytes:
        if default is not None and self._root + name not in self._entries:
            return default
        offset, size = self._place(name)
        if size > MAX_PICKLE_BYTES:
            raise ValueError(f"expected at most {MAX_PICKLE_BYTES} bytes in {name}, found {size}")
        self._file.seek(offset)
        return self._file.read(size)

    def _place(self, name: str) -> tuple[int, int]:
        """Where in the file an entry's bytes begin, and how many there are."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise ValueError(f"found no entry {name[:40]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError("found compressed entries, which torch does not write")
        # The entry's own header repeats its name, and its padding differs in length from the directory's.
        self._file.seek(entry.header_offset)
        header = self._file.read(LOCAL_BYTES)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        return entry.header_offset + LOCAL_BYTES + name_bytes + extra_bytes, entry.file_size


def _check_directory(file: IO[bytes], size: int) -> None:
    """Bound the directory at the end of a zip file, which is read as a whole."""
    begin = max(0, size - END_BYTES - MAX_COMMENT_BYTES - LOCATOR_BYTES)
    file.seek(begin)
    tail = file.read()
    place = tail.rfind(END)
    if place < 0 or place + END_BYTES > len(tail):
        raise ValueError("found no end of a zip file (truncated)")
    sizes = [int.from_bytes(tail[place + 12 : place + 16], "little")]
    locator = tail[max(0, place - LOCATOR_BYTES) : place]
    if locator.startswith(LOCATOR):
        file.seek(int.from_bytes(locator[8:16], "little"))
        wide = file.read(WIDE_END_BYTES)
        if sizes[0] == 0xFFFFFFFF:
            sizes = []
        sizes.append(int.from_bytes(wide[40:48], "little"))
    if max(sizes) > MAX_DIRECTORY_BYTES:
        raise ValueError(f"expected a directory of at most {MAX_DIRECTORY_BYTES} bytes, found {max(sizes)}")


def _read_old(file: IO[bytes], size: int) -> Any:
    file.seek(0)
    stream = BytesIO(file.read(MAX_PICKLE_BYTES))
    storages: dict[str, Storage] = {}

    def note(storage: Storage) -> None:
        storages[storage.key] = storage

    if read_pickle_stream(stream, note) != MAGIC or read_pickle_stream(stream, note) != PROTOCOL:
        raise ValueError("found another pickle")
    system = read_pickle_stream(stream, note)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("found numbers with the highest byte first")
    begin = stream.tell()
    read_pickle_stream(stream, note)  # only to learn the storages, which come after it
    keys = read_pickle_stream(stream, note)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("found something other than a list of storages")
    offsets, offset = {}, stream.tell()
    for key in keys:
        if key not in storages or key in offsets:
            raise ValueError("found storages that no tensor has")
        file.seek(offset)
        if int.from_bytes(file.read(8), "little") != storages[key].num_elements:
            raise ValueError("found a storage of another size than its tensors have")
        offsets[key] = offset + 8
        offset += 8 + storages[key].num_elements * storages[key].dtype.itemsize
    budget = _Budget(size)
    stream.seek(begin)
    return read_pickle_stream(stream, lambda storage: budget.numbers(file, offsets[storage.key], storage))
