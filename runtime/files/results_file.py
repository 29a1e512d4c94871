"""A file of results that grows line by line, and that another run goes on with after this one was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

__all__ = ["ResultsFile"]


class ResultsFile:
    """Open for appending, and locked: two runs would answer everything twice.

    Every line is with the system when `write` returns, so that a killed process loses at most the line that
    it was writing; the next run cuts that off.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, which names the file, if it cannot be written, is no regular file, or is in use."""
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._file = FileIO(os.open(path, flags, 0o666), "r+")
        except ValueError as error:  # a name with a NUL
            raise OSError(errno.EINVAL, str(error), str(path)) from error
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "expected a regular file, which another run can go on with")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise OSError(errno.EBUSY, "another run is writing to it", str(path)) from error
        except OSError as error:
            self._file.close()
            raise OSError(error.errno, error.strerror, str(path)) from error

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_same(self, file: BinaryIO) -> bool:
        """Whether this is the same file as another that is open."""
        return os.path.samestat(os.fstat(self._file.fileno()), os.fstat(file.fileno()))

    def resume(self, take: Callable[[bytes], bool], prefix: bytes) -> None:
        """Read the lines that are there, and cut off the last one if it is torn.

        take: given each line; False: it is none of this file's. prefix: what all lines begin with. Raises
        OSError for a file of another kind, which stays as it is.
        """
        size = number = 0
        with self._path.open("rb") as lines:
            for line in lines:
                number += 1
                if not line.endswith(b"\n"):
                    is_ours = line.startswith(prefix) or prefix.startswith(line)
                elif is_ours := take(line):
                    size += len(line)
                if not is_ours:
                    message = f"line {number} is not a result: give another file, or remove this one"
                    raise OSError(errno.EINVAL, message, str(self._path))
        self._file.truncate(size)

    def write(self, line: bytes) -> None:
        """Append a line. Raises OSError, which names the file, and then leaves it as it was."""
        before = os.fstat(self._file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
