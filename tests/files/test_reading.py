"""What is read is bounded, and no file, pipe or device is waited for without end."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from antiphon.files.reading import read_bounded, read_regular


def fifo(folder: Path, *pieces: bytes) -> Path:
    """A named pipe, into which another thread writes the pieces."""
    path = folder / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for piece in pieces:
                try:
                    file.write(piece)
                except BrokenPipeError:  # the reader has what it may read
                    return

    if pieces:
        threading.Thread(target=write, daemon=True).start()
    return path


@pytest.mark.parametrize("size", [0, 1, 10, 11, 12, 1000])
def test_a_file_is_read_to_one_byte_more_than_is_allowed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert read_bounded(path, 10) == bytes(min(size, 11))


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    assert read_bounded(fifo(tmp_path, b"ab", b"c" * 200_000), 10**6) == b"ab" + b"c" * 200_000


def test_of_a_pipe_no_more_is_read_than_of_a_file(tmp_path: Path) -> None:
    assert read_bounded(fifo(tmp_path, b"a" * 100, b"b" * 1_000_000), 150) == b"a" * 100 + b"b" * 51


def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nothing was written to this pipe for 0\.05 s"):
        read_bounded(fifo(tmp_path), 10, patience_s=0.05)


def test_a_descriptor_of_a_process_substitution_is_a_pipe() -> None:
    readable, writable = os.pipe()
    os.write(writable, b"said")
    os.close(writable)
    try:
        assert read_bounded(f"/dev/fd/{readable}", 10) == b"said"
    finally:
        os.close(readable)


def special_file(folder: Path, kind: str) -> Path:
    path = folder / "special"
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["folder", "socket", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = special_file(tmp_path, kind)
    with pytest.raises(OSError, match=f"expected a file or a pipe, found a {kind}"):
        read_bounded(path, 10)
    with pytest.raises(OSError, match=f"expected a regular file, found a {kind}"):
        read_regular(path, 10)


def test_a_checkpoint_file_is_no_pipe(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="expected a regular file, found a pipe"):
        read_regular(fifo(tmp_path), 10)


def test_a_regular_file_is_read_whole_or_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == b"0123456789"
    os.truncate(path, 1 << 40)  # sparse: to read it would take the memory
    with pytest.raises(OSError, match="expected at most 10 bytes, found 1099511627776"):
        read_regular(path, 10)
