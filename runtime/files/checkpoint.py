"""The files of a checkpoint, read as what they are: data of unknown origin.

A file must be a regular one (a pipe can block, a device never ends), its size is checked before it is read,
and common stand-ins are named: a git-lfs pointer, a web page, an empty file. Any problem becomes a
`CheckpointError` of one line and bounded length, whatever the file contains.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr
from typing import Any

from antiphon.errors import CheckpointError
from antiphon.files.reading import check_regular, read_regular
from antiphon.plain import cut, one_line

__all__ = [
    "check_file",
    "is_folder",
    "is_there",
    "parse_json",
    "read_file",
    "read_json",
    "refusing_failures",
    "shortened",
    "shown",
]

MAX_SHOWN = 200
"""Characters that an error quotes of a value, a name or a library's message."""
MAX_JSON_BYTES = 4 * 2**20
MAX_DIGITS = 1000
"""Digits of an integer in a JSON file: the time to parse one grows with the square of their number."""
HEAD_BYTES = 512


# --- what errors show -----------------------------------------------------------------------------


class BoundedRepr(Repr):
    """A repr that looks only at the beginning of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = 12
        self.maxstring = self.maxother = MAX_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return repr(x) if bits <= 4 * MAX_SHOWN else f"an integer of {bits} bits"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: MAX_SHOWN + 1])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: MAX_SHOWN + 1])


BOUNDED = BoundedRepr()


def shown(value: object) -> str:
    """`repr` of a value from a file, bounded in time and length."""
    return cut(BOUNDED.repr(value), MAX_SHOWN)


def shortened(name: str) -> str:
    """The name of a tensor or key: unchanged if it is short and printable."""
    return name if len(name) <= MAX_SHOWN and name.isprintable() else shown(name)


@contextmanager
def refusing_failures(path: Path, expected: str) -> Iterator[None]:
    """Whatever a library raises while it reads `path` becomes a `CheckpointError`.

    What libraries raise about mangled files has no common base: UnicodeDecodeError, MemoryError and, from
    libraries in Rust, PanicException, which is not an `Exception`.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: expected {expected}: {one_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: expected {expected}: {one_line(error)}") from error


# --- files ----------------------------------------------------------------------------------------


def is_there(path: Path) -> bool:
    """Whether the folder has such an entry, even of the wrong kind or a broken link: what exists and cannot
    be read is an error, not an absence."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """`Path.is_dir`, without its errors, such as for a name that is too long."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_file(path: Path, expected: str, *, max_bytes: int, magic: bytes | None = None) -> int:
    """The size of a regular file that a library will open.

    expected: what the file should be, for errors. magic: how it begins.
    Raises CheckpointError if it is missing, not a regular file, empty, too large, or something else.
    """
    with _reading(path, expected):
        size = check_regular(path, max_bytes)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    if magic is None or not head.startswith(magic):
        _check_head(path, expected, head, size)
    return size


def read_file(path: Path, expected: str, *, max_bytes: int) -> bytes:
    """The contents of a regular file; raises what `check_file` raises."""
    with _reading(path, expected):
        content = read_regular(path, max_bytes)
    _check_head(path, expected, content[:HEAD_BYTES], len(content))
    return content


@contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        if is_there(path):
            raise CheckpointError(f"{path}: a link to nowhere, expected {expected}") from None
        raise CheckpointError(f"{path}: no such file, expected {expected}") from None
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise CheckpointError(f"{path}: expected {expected}; it cannot be read: {reason}") from error


STAND_INS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the file: run `git lfs pull` in its folder"),
    (rb"/annex/objects/", "a git-annex pointer, not the file: run `git annex get` in its folder"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", "a web page, not the file"),
    (rb"\x1f\x8b\x08.{5}[^{]", "a gzip file: unpack it first"),  # { of a safetensors header of such a length
    (rb"(?:\.\./)+[\w./-]+\s*$", "the text of a link, {text}, which a copy without links left"),
    (rb"(?:Entry not found|Invalid username or password|Repository not found|Access to model)", "{text}"),
)
"""What is often found in place of a file, by how it begins."""


def _check_head(path: Path, expected: str, head: bytes, size: int) -> None:
    if size == 0:
        raise CheckpointError(f"{path}: expected {expected}, found 0 bytes")
    for pattern, name in STAND_INS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            found = name.format(text=shown(head.decode("utf-8", "replace").strip()))
            raise CheckpointError(f"{path}: expected {expected}, found {found}")


# --- JSON -----------------------------------------------------------------------------------------


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds; anything else is a `CheckpointError` naming the file."""
    return parse_json(path, read_file(path, "JSON", max_bytes=max_bytes))


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """See `read_json`. A key that appears twice is refused, since readers differ in which one counts."""
    try:
        values = json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_unique, parse_int=_bounded_integer
        )
    except RecursionError:
        raise CheckpointError(f"{path}: expected JSON, found values nested too deeply") from None
    except (ValueError, MemoryError) as error:  # not UTF-8, or not JSON
        raise CheckpointError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"a key appears twice: {shown(name)}")
        values[name] = value
    return values


def _bounded_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)
