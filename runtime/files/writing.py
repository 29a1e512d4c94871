"""Files named by the user, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from antiphon.files.reading import PIPE_PATIENCE_S

__all__ = [
    "check_writable",
    "discard",
    "discard_unfinished",
    "folder_written_whole",
    "is_special",
    "passing_folder",
    "write_whole",
    "written_whole",
]

_unfinished: set[Path] = set()
"""Files and folders that this process is writing. Kept by the process and not by each caller, since a signal
may end everything at once, and then nothing else removes them."""


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` for the block to write to; it takes `path`'s place when the block has ended.

    So `path` holds the whole content, or what it held before. Links are followed, and a file that is replaced
    keeps its mode. Pipes and devices cannot be replaced: the whole content is sent to them when the block has
    ended.

    Raises OSError, which names `path`, if it cannot be written.
    """
    with _named(path):
        part = _begin(path)
    try:
        yield part
        with _named(path):
            _finish(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
        _unfinished.discard(part)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all; see `written_whole`."""
    with written_whole(path) as part, _named(path):
        part.write_bytes(content)


@contextmanager
def folder_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder beside `path` for the block to fill; it is renamed to `path` when the block has ended.

    Raises OSError, which names `path`, if that exists or cannot be made.
    """
    target = Path(path)
    with _named(path):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "expected the name of a new folder; this exists")
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
        part = target.parent / f".antiphon-{os.urandom(8).hex()}"
        _unfinished.add(part)
        try:
            part.mkdir()
        except OSError:
            _unfinished.discard(part)
            raise
    try:
        yield part
        with _named(path):
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _unfinished.discard(part)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises the OSError, naming `path`, that writing to it would raise; leaves nothing behind."""
    with _named(path):
        part = _begin(path)
        part.unlink()
        _unfinished.discard(part)


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether this is a pipe, a device or a descriptor (/dev/fd/3), which is written to, not replaced."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def passing_folder(prefix: str) -> Path:
    """A new folder among the temporary ones, until `discard`. Raises OSError if none can be made."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _unfinished.add(folder)
    return folder


def discard(folder: Path) -> None:
    """Remove a `passing_folder`, if it is still there."""
    shutil.rmtree(folder, ignore_errors=True)
    _unfinished.discard(folder)


def discard_unfinished() -> None:
    """Removes the files and folders that are being written; for a process that is about to end."""
    for part in list(_unfinished):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink()


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes an OSError from inside name `path`, whatever file it was about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
    except ValueError as error:  # a name with a NUL
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error


def _begin(path: str | os.PathLike[str]) -> Path:
    """An empty file to write to, where it can be renamed into place."""
    special = is_special(path)
    if special:
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        import tempfile  # imports much, and is rarely needed

        folder = Path(tempfile.gettempdir())
    else:
        target = _target(path)
        folder = target.parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder}")
        if _mode(target) is not None and not os.access(target, os.W_OK):  # renaming would not check this
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    part = folder / f".antiphon-{os.urandom(8).hex()}{Path(path).suffix}"
    _unfinished.add(part)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(part, flags, 0o600 if special else 0o666))
    except OSError:
        _unfinished.discard(part)
        raise
    return part


def _finish(part: Path, path: str | os.PathLike[str]) -> None:
    if is_special(path):
        _send(path, part.read_bytes())
        return
    target = _target(path)
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)  # some disks report only now that they are full
        if (mode := _mode(target)) is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    part.replace(target)


def _target(path: str | os.PathLike[str]) -> Path:
    """The file behind any links, which may not exist yet. Raises OSError for a folder."""
    target = Path(os.path.realpath(path))
    if target.is_dir() or os.fspath(path).endswith("/"):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return target


def _mode(target: Path) -> int | None:
    """Its permissions; None if there is no such file."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return None


def _descriptor(path: str | os.PathLike[str]) -> int | None:
    """The number that a name such as /dev/stdout or /dev/fd/63 stands for; None for other names."""
    name = os.fspath(path)
    standard = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    if name in standard:
        return standard[name]
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", name)
    return int(found[1]) if found else None


def _send(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes to a pipe, a device or a descriptor."""
    number = _descriptor(path)
    descriptor = os.dup(number) if number is not None else _open_pipe(path)
    with FileIO(descriptor, "w") as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]


def _open_pipe(path: str | os.PathLike[str]) -> int:
    """Opens a named pipe once it has a reader; a device is ready at once."""
    until = time.monotonic() + PIPE_PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"nothing opened this pipe for reading within {PIPE_PATIENCE_S:g} s"
                ) from error
        time.sleep(0.05)
    os.set_blocking(descriptor, True)
    return descriptor
