"""What is written is there whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from antiphon import InvalidRequest
from antiphon.codec import write_audio
from antiphon.files.writing import (
    check_writable,
    discard_unfinished,
    folder_written_whole,
    write_whole,
    written_whole,
)

OLD, NEW = b"as it was", b"as it is"


@contextmanager
def small_files() -> Iterator[None]:
    """Files hold 4 KB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_file_has_the_mode_that_others_have(tmp_path: Path) -> None:
    write_whole(tmp_path / "ours", NEW)
    (tmp_path / "theirs").touch()
    assert (tmp_path / "ours").read_bytes() == NEW
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_file_that_is_replaced_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(OLD)
    file.chmod(0o640)
    link.symlink_to("file")
    write_whole(link, NEW)
    assert link.is_symlink()
    assert file.read_bytes() == NEW
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_to_nothing_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


@pytest.mark.parametrize("ends", ["an error", "Ctrl-C", "a full disk"])
def test_what_fails_leaves_what_was_there(tmp_path: Path, ends: str) -> None:
    file = tmp_path / "file.csv"
    file.write_bytes(OLD)
    kind = {"an error": ValueError, "Ctrl-C": KeyboardInterrupt, "a full disk": OSError}[ends]

    def write() -> None:
        with small_files(), written_whole(file) as part:
            assert part.suffix == ".csv"
            part.write_bytes(b"half" if kind is not OSError else bytes(10_000))
            raise kind

    with pytest.raises(kind):
        write()
    assert file.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_an_error_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "reply.wav"
    file.write_bytes(OLD)
    with small_files():
        write_whole(tmp_path / "small", bytes(4096))
        with pytest.raises(OSError, match=r"reply\.wav"):
            write_audio(file, np.zeros(8000, np.float32), 16000)
    assert file.read_bytes() == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply.wav", "small"]


def test_what_is_unfinished_can_be_removed(tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "file"):
            discard_unfinished()
            assert list(tmp_path.iterdir()) == []

    with pytest.raises(FileNotFoundError, match="file"):
        write()


@pytest.mark.parametrize("name", ["", "folder", "folder/", "nowhere/x", "file/x", "loop", "x" * 300, "a\0b"])
def test_what_cannot_be_written_is_known_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    path = f"{tmp_path}/{name}"
    for attempt in (check_writable, lambda path: write_whole(path, NEW)):
        with pytest.raises(OSError, match=r".") as refused:
            attempt(path)
        assert refused.value.filename == path
        assert refused.value.strerror
    assert sorted(tmp_path.iterdir()) == before


def test_pipes_and_devices_are_sent_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, NEW * 100_000)
    reader.join()
    assert heard == [NEW * 100_000]
    assert pipe.is_fifo()
    readable, writable = os.pipe()
    write_whole(f"/dev/fd/{writable}", NEW)
    assert os.read(readable, 100) == NEW
    os.close(readable)
    with pytest.raises(BrokenPipeError):
        write_whole(f"/dev/fd/{writable}", NEW)
    os.close(writable)
    write_whole("/dev/null", NEW)
    with pytest.raises(OSError, match="/dev/full"):
        write_whole("/dev/full", NEW)


def test_a_pipe_without_an_ending_is_wav(tmp_path: Path) -> None:
    readable, writable = os.pipe()
    write_audio(f"/dev/fd/{writable}", np.zeros(10, np.float32), 16000)
    os.close(writable)
    assert os.read(readable, 100)[:4] == b"RIFF"
    os.close(readable)
    with pytest.raises(InvalidRequest, match=r"ends with \.wav"):
        write_audio(tmp_path / "file", np.zeros(10, np.float32), 16000)


@pytest.mark.parametrize(
    ("samples", "rate_hz"),
    [
        (np.array([0.0, np.nan], np.float32), 16000),
        (np.zeros((2, 2), np.float32), 16000),
        (np.zeros(3, np.int16), 16000),
        (np.zeros(0, np.float32), 16000),
        ("samples", 16000),
        (np.zeros(3, np.float32), 0),
        (np.zeros(3, np.float32), 10**9),
        (np.zeros(3, np.float32), "16000"),
    ],
)
@pytest.mark.parametrize("name", ["x.wav", "x.ogg"])
def test_sound_that_is_none_is_not_written(tmp_path: Path, name: str, samples: object, rate_hz: int) -> None:
    with pytest.raises(InvalidRequest, match="audio: expected"):
        write_audio(tmp_path / name, samples, rate_hz)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with folder_written_whole(target) as part:
        (part / "file").write_bytes(b"x")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    with pytest.raises(FileExistsError, match="this exists"):
        folder_written_whole(target).__enter__()
    with suppress(ZeroDivisionError), folder_written_whole(tmp_path / "other") as part:
        (part / "file").write_bytes(b"x")
        raise ZeroDivisionError
    with folder_written_whole(tmp_path / "third") as part:
        (part / "file").write_bytes(b"x")
        discard_unfinished()
        assert not part.exists()
        part.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "third"]
