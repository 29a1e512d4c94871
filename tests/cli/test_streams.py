"""The program with standard streams as they may be, and started as it may be."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from command_line import antiphon as program

import antiphon
from antiphon.cli.streams import NotShown, one_line, prepare_streams, say
from antiphon.cli.terminal import EventPrinter
from antiphon.types import Completion, TextDelta

ROOT = Path(__file__).parents[2]
SPEAK = ["generate", "--text", "Hello", "--max-units", "5", "--out", "reply.wav"]
FULL = "antiphon: stdout: No space left on device"


def without(*descriptors: int) -> Callable[[], None]:
    """What `>&-` and its like do."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.slow
@pytest.mark.long
def test_closed_streams_are_as_good_as_devnull(tmp_path: Path) -> None:
    ended = program(*SPEAK, cwd=tmp_path, preexec_fn=without(0, 1, 2))
    assert ended.status == 0
    assert soundfile.info(tmp_path / "reply.wav").frames > 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("closed", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("arguments", [["--version"], ["generate", "--bogus"]], ids=["right", "wrong"])
def test_each_may_be_closed(arguments: list[str], closed: int) -> None:
    ended = program(*arguments, preexec_fn=without(closed))
    assert ended.status == (0 if arguments == ["--version"] else 2)
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.long
def test_speech_is_written_though_its_text_cannot_be_shown(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = program(*SPEAK, cwd=tmp_path, stdout=full)
    assert ended.status == 1
    assert ended.err.splitlines()[1:] == [FULL]
    assert soundfile.info(tmp_path / "reply.wav").frames > 0


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_a_full_disk_is_said(argument: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = program(argument, stdout=full)
    assert (ended.status, ended.err) == (1, FULL + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--text", "Hello"]], ids=["help", "reply"])
@pytest.mark.long
def test_without_a_reader(arguments: list[str]) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    try:
        ended = program(*arguments, stdout=writable)
    finally:
        os.close(writable)
    assert ended.status == 1
    assert [line for line in ended.err.splitlines() if "coloured shapes" not in line] == []


@pytest.mark.parametrize("encoding", ["latin-1", "koi8-r"])
def test_what_an_encoding_cannot_hold_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    prepare_streams()
    printer = EventPrinter()
    printer.show(TextDelta("0", "\u201chello\u201d \U0001f600"))
    printer.finish(Completion("0"), Path("\udcff.wav"))
    assert b"?hello? ?\nspeech  none: ?.wav was not written\n" in shown.getvalue()


def test_a_printer_that_goes_on_tells_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(NotShown):
            say("hello")
        with pytest.raises(NotShown):
            EventPrinter().show(TextDelta("0", "hello"))
        printer = EventPrinter(goes_on=True)
        printer.show(TextDelta("0", "hello"))
        printer.finish(Completion("0"), None)
        assert printer.lost is not None
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for it to be closed


@pytest.mark.parametrize("columns", ["0", "", "-5", "9" * 5000, "1000000000", "\N{SUPERSCRIPT TWO}", "132"])
def test_a_terminal_has_some_columns(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    prepare_streams()
    assert os.environ.get("COLUMNS") == ("132" if columns == "132" else None)


def test_an_error_is_one_line() -> None:
    assert one_line(OSError(28, "No space left", "a\nb")) == "a b: No space left"
    assert one_line("\x1b[2Jred\udcff\tand\r\nso on") == "\\x1b[2Jred\\udcff and so on"
    assert len(one_line("x" * 10**7)) < 3000


@pytest.mark.slow
@pytest.mark.long
def test_as_a_module_it_is_the_same_program(tmp_path: Path) -> None:
    """Wherever it is started: a folder may hold what has the name of a package."""
    (tmp_path / "typer.py").write_text("raise SystemExit('not this one')")
    for folder in (ROOT, tmp_path):
        ended = program("generate", "--bogus", cwd=folder)
        assert ended.status == 2
        assert ended.err.startswith("antiphon: no such option: --bogus")
    told = program("doctor", "--json", cwd=ROOT)
    assert told.status == 0
    assert json.loads(told.out)["versions"]["antiphon"] == antiphon.__version__
    assert b'"cpp on cpu"' in told.out
