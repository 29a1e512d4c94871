"""Whatever the arguments are: an error that says so, status 2, no traceback."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from antiphon.cli import main, program

BYTES = os.fsdecode(b"\xff\xfe")
DIGITS = "9" * 5000
GENERATE = ["generate", "--text", "Hi"]


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch, stdin: str = "") -> int:
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            [*GENERATE, name, value]
            for name in ("--temperature", "--top-p")
            for value in ("nan", "inf", "-1")
        ),
        *(
            [*GENERATE, name, value]
            for name in ("--max-units", "--top-k")
            for value in ("-1", "", DIGITS, "1.5")
        ),
        *([*GENERATE, name, BYTES] for name in ("--text", "--system", "--stop", "--voice", "--seed")),
        *(
            [*GENERATE, name, path]
            for name in ("--image", "--audio")
            for path in ("/", "/dev/zero", "", BYTES)
        ),
        *([*GENERATE, "--device", device] for device in ("float8", "", "[/red]", "cuda:99999999999")),
        [*GENERATE, "--dtype", "float8"],
        [*GENERATE, "--codec-dtype", "float8"],
        ["serve", "--unit-head", "text"],
        [*GENERATE, "--vocoder-backend", "tensorrt"],
        [*GENERATE, "--vocoder-workers", "-1"],
        [*GENERATE, "--vocoder-workers", "65"],
        [*GENERATE, "--vocoder-device", "float8"],
        [*GENERATE, "--vocoder-device", "cpu,cpu"],
        ["bench", "serve", "--vocoder-workers", "0,2"],
        [*GENERATE, "--text-backend", "tgi"],
        [*GENERATE, "--text-backend-arg", "python"],
        [*GENERATE, "--block-size", "0"],
        [*GENERATE, "--json", "--out", "-"],
        ["generate", "--text", "-", "--audio", "-"],
        ["generate", "--audio", "-", "--audio", "-"],
        ["chat", "--out-dir", "/proc/nowhere"],
        ["chat", "--out-dir", "/etc/hostname/x"],
        ["chat", "--system", BYTES],
        ["profile", "--config", "../8b"],
        ["profile", "--trace", "/nowhere/trace.json"],
        ["profile", "--audio", "/nowhere.wav"],
        *(
            ["bench", name, "--json", "/nowhere/x"]
            for name in ("engine", "codec", "streaming", "kernels", "speech", "turns", "serve")
        ),
        ["bench", "kernels", "--csv", "/"],
        ["bench", "kernels", "--plot", "/nowhere/x.png"],
        ["bench", "engine", "--batch", "\N{SUPERSCRIPT TWO}"],
        ["bench", "streaming", "--context", DIGITS],
        ["bench", "codec", "--seconds", "nan"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:60],
)
def test_wrong_arguments(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(arguments, monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "a bug" not in shown.err
    if shown.err.startswith("antiphon: "):
        assert shown.err.count("\n") == 1 + ("coloured shapes" in shown.err)
    else:
        assert shown.err.startswith("Usage: antiphon ")


def test_a_file_that_is_too_long_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.wav"
    with huge.open("wb") as file:
        file.truncate(30 * 2**30)
    assert ended(["generate", "--audio", str(huge)], monkeypatch) == 2
    assert "found 32212254720" in capsys.readouterr().err


def test_a_bug_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr("antiphon.cli.app.app", fail)
    assert ended([], monkeypatch) == 1
    assert capsys.readouterr().err == (
        "antiphon: a bug: KeyError: 'two\\nlines' (ANTIPHON_TRACEBACK=1 shows where)\n"
    )
    monkeypatch.setenv(program.TRACEBACK, "1")
    assert ended([], monkeypatch) == 1
    assert "Traceback" in capsys.readouterr().err
