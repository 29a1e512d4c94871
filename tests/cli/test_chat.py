"""What may be typed into a chat, or piped into it: the talk goes on."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from antiphon.cli import main, typed_file

PICTURE = Path(__file__).parents[2] / "runtime" / "assets" / "demo" / "shapes.png"


@pytest.mark.slow
def test_the_talk_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typed_file, "PIPE_PATIENCE_S", 0.1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with Path("huge.wav").open("wb") as file:
        file.truncate(30 * 2**30)
    os.mkfifo("pipe")
    shutil.copy(PICTURE, "my picture.png")
    Path("replies").mkdir()
    Path("replies/reply-7.wav").touch()
    refused = {
        "/audio huge.wav": "huge.wav: expected at most",
        "/image huge.wav": "huge.wav: expected at most",
        "/image /dev/zero": "/dev/zero: expected a file or a pipe, found a device",
        "/audio pipe": "pipe: nothing was written to this pipe for 0.1 s",
        "/image .": "found a folder",
        "/image": "expected the name of a file",
        "/audio nowhere.wav": "nowhere.wav: No such file",
        "/image ~nobody-has-this-name/x": "~nobody-has-this-name/x: No such file",
        "/image a\0b": "null",
        "/image " + "x" * 5000: "File name too long",
        "/image 'open": "'open: No such file",
        "x" * 1_000_000: "expected lines of up to 400000 characters",
        os.fsdecode(b"caf\xe9"): "got other bytes",
    }
    accepted = [
        "/image 'my picture.png'",
        "/image my\\ picture.png",
        "/image ~/my picture.png",
        "What is it?",
    ]
    script = "\n".join([*refused, *accepted, "a\0b", "Hello"])  # and no line break at the end
    monkeypatch.setattr(sys, "argv", ["antiphon", "chat", "--max-units", "4", "--out-dir", "replies"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = capsys.readouterr()
    said = shown.err.splitlines()
    _, *errors = [line for line in said if line.startswith("antiphon: ")]
    assert sum("goes with the next question" in line for line in said) == 3
    assert len(errors) == len(refused)
    for error, expected in zip(errors, refused.values(), strict=True):
        assert error.startswith("antiphon: ")
        assert expected in error
    assert shown.out.count("reply   ") == 3
    assert sorted(path.name for path in Path("replies").iterdir()) == [
        "reply-10.wav", "reply-7.wav", "reply-8.wav", "reply-9.wav",
    ]  # fmt: skip
