"""Where speech goes, and what becomes of it where it cannot."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from command_line import antiphon

from antiphon.cli.sound_file import check_sound_file, write_sound

ASSETS = Path(__file__).parents[2] / "runtime" / "assets" / "demo"
TONE = np.sin(np.arange(20_000, dtype=np.float32) / 10)


@pytest.mark.slow
@pytest.mark.long
def test_all_through_pipes() -> None:
    """`... | antiphon generate --audio - --image <(...) --out - | ...`"""
    readable, writable = os.pipe()
    os.write(writable, (ASSETS / "shapes.png").read_bytes())  # less than a pipe holds
    os.close(writable)
    ended = antiphon(
        *("generate", "--audio", "-", "--image", f"/dev/fd/{readable}", "--out", "-", "--max-units", "5"),
        stdin=(ASSETS / "question.wav").read_bytes(),
        pass_fds=[readable],
    )
    os.close(readable)
    assert ended.status == 0
    assert soundfile.info(io.BytesIO(ended.out)).format == "WAV"
    assert "heard   " in ended.err
    assert "speech  stdout (" in ended.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.wav", "Is a directory"),
        ("nowhere/x.wav", "there is no folder"),
        ("file/x.wav", "there is no folder"),
        (f"{'x' * 300}.wav", "File name too long"),
        ("x\0.wav", "null"),
        ("x.mp3", "got 'x.mp3'"),
        ("x", "got 'x'"),
        ("", "expected a name"),
    ],
)
def test_it_is_refused_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(typer.BadParameter, match=said):
        check_sound_file(tmp_path / name if name else Path(name))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["new.wav", "old.ogg", "/dev/null", "/dev/stdout", "-"])
def test_where_it_may_go(tmp_path: Path, name: str) -> None:
    (tmp_path / "old.ogg").write_text("as it was")
    check_sound_file(Path(name) if name == "-" else tmp_path / name)
    assert (tmp_path / "old.ogg").read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["old.ogg"]


def test_what_a_full_disk_does_not_take_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    full = tmp_path / "reply.wav"
    full.symlink_to("/dev/full")
    written = write_sound(full, TONE, 22050)
    [file] = spare.iterdir()
    assert written.file == file
    assert written.error == f"{full}: No space left on device; the speech is in {file}"
    assert len(soundfile.read(file)[0]) == len(TONE)
    file.unlink()
    spare.rmdir()
    lost = write_sound(tmp_path / "nowhere" / "reply.wav", TONE, 22050)
    assert lost.file is None
    assert lost.error is not None
    assert lost.error.endswith("; the speech is lost")
