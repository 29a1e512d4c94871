"""Files named by the user, read within bounds, and never waited for indefinitely.

Inputs may come from pipes (a FIFO, a process substitution); the files of a checkpoint are regular files.
Devices, sockets and folders are refused before they are opened, since opening one may already block.
"""

from __future__ import annotations

import os
import select
import stat
from io import FileIO
from pathlib import Path

__all__ = [
    "PIPE_PATIENCE_S",
    "check_regular",
    "read_bounded",
    "read_regular",
    "read_stream",
]

PIPE_PATIENCE_S = 10.0
"""How long a pipe may stay silent: one without a writer would be waited for indefinitely."""
PIECE_BYTES = 2**20


def read_bounded(
    path: str | os.PathLike[str], max_bytes: int, *, patience_s: float = PIPE_PATIENCE_S
) -> bytes:
    """The contents of a regular file or of a pipe. If there are more than `max_bytes`, `max_bytes` + 1 are
    read.

    So the length tells the caller that there is too much, and memory stays bounded whatever a file's
    directory entry says about its size.

    patience_s: give up on a pipe that is silent for this long.
    Raises OSError, with a reason to show, for what is not a file or pipe, cannot be read or is silent.
    """
    mode = Path(path).stat().st_mode
    _check_kind(mode, pipes=True)
    # A pipe without a writer blocks `open` itself, so it is opened without waiting, and then polled.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with FileIO(descriptor) as file:
        _check_kind(os.fstat(descriptor).st_mode, pipes=True)  # it may have been replaced since
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _read_up_to(file, max_bytes + 1)
        return read_stream(file, max_bytes, patience_s=patience_s)


def read_stream(file: FileIO, max_bytes: int, *, patience_s: float | None = None) -> bytes:
    """`read_bounded` of an open file. patience_s: None waits for its end, as programs do with their input."""
    pieces, left = [], max_bytes + 1
    poll = select.poll()
    poll.register(file, select.POLLIN)
    while left > 0:
        if not poll.poll(None if patience_s is None else patience_s * 1000):
            raise TimeoutError(f"nothing was written to this pipe for {patience_s:g} s")
        piece = file.read(min(left, PIECE_BYTES))
        if piece is None:  # another reader of the pipe was faster
            continue
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The contents of a regular file of at most `max_bytes`.

    Raises OSError, with a reason to show, for what is not a regular file, is larger, or cannot be read.
    """
    _check_kind(Path(path).stat().st_mode, pipes=False)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with FileIO(descriptor) as file:
        status = os.fstat(descriptor)
        _check_kind(status.st_mode, pipes=False)
        if status.st_size > max_bytes:
            raise OSError(f"expected at most {max_bytes} bytes, found {status.st_size}")
        content = _read_up_to(file, max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"expected at most {max_bytes} bytes, found more")
    return content


def check_regular(path: str | os.PathLike[str], max_bytes: int) -> int:
    """The size of a regular file of at most `max_bytes`; raises OSError as `read_regular` does."""
    status = Path(path).stat()
    _check_kind(status.st_mode, pipes=False)
    if status.st_size > max_bytes:
        raise OSError(f"expected at most {max_bytes} bytes, found {status.st_size}")
    return status.st_size


def _read_up_to(file: FileIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(min(size, 16 * PIECE_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _check_kind(mode: int, *, pipes: bool) -> None:
    if stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode)):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    expected = "a file or a pipe" if pipes else "a regular file"
    raise OSError(f"expected {expected}, found {kinds.get(stat.S_IFMT(mode), 'something else')}")
