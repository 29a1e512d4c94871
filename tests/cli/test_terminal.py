"""What a person at a terminal sees and types."""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path

import pytest
from terminal import Terminal

from antiphon.cli import main, spinner
from antiphon.cli.app import app
from antiphon.cli.spinner import ERASE, Spinner
from antiphon.cli.typed_commands import completions, parse

DEMO = Path(__file__).parents[2] / "runtime" / "assets" / "demo"


@pytest.mark.slow
@pytest.mark.long
def test_a_chat(tmp_path: Path) -> None:
    shutil.copy(DEMO / "shapes.png", tmp_path / "my picture.png")
    terminal = Terminal("chat", "--max-tokens", "8", cwd=tmp_path)
    loading = terminal.wait_for(b"/help lists the commands")
    assert b" loading the packaged model, " in loading
    assert loading.index(ERASE.encode() + b"antiphon: no --model") > loading.rindex(b"loading")
    terminal.wait_for(b"> ")
    terminal.type(b"/im\tm\t\n")
    terminal.wait_for(b"/image my picture.png\r\n")
    terminal.wait_for(b"picture my picture.png, 320 x 256, goes with the next question\r\n")
    terminal.wait_for(b"> ")
    terminal.type(b"/image nowhere.png\n")
    terminal.wait_for(b"antiphon: nowhere.png: No such file or directory\r\n")
    terminal.wait_for(b"> ")
    terminal.type(b"What is it?\n")
    terminal.wait_for(b"reply ")
    terminal.wait_for(b"> ")
    terminal.type(b"/dance\n")
    terminal.wait_for(b"antiphon: there is no command /dance\r\n")
    terminal.wait_for(b"> ")
    terminal.type(b"Help\n")
    assert b"no command" not in terminal.wait_for(b"/clear           forget the conversation")
    terminal.wait_for(b"> ")
    terminal.type(b"exit\n")
    assert terminal.end() == 0


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_while_loading_has_a_line_of_its_own() -> None:
    terminal = Terminal("generate", "--text", "Hi")
    terminal.wait_for(b"loading")
    terminal.type(b"\x03")
    terminal.wait_for(b"^C\r\nantiphon: interrupted\r\n")
    assert terminal.end() == 130


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("quit", ("/quit", "")),
        ("Exit", ("/quit", "")),
        ("/exit", ("/quit", "")),
        ("HELP", ("/help", "")),
        ("/quit", ("/quit", "")),
        ("/image  a b.png", ("/image", "a b.png")),
        ("/dance", ("/dance", "")),
        ("help me", ("", "help me")),
        ("exit?", ("", "exit?")),
        ("", ("", "")),
    ],
)
def test_what_a_line_means(line: str, meant: tuple[str, str]) -> None:
    assert parse(line) == meant


def test_what_tab_makes_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b.png", "ab.wav", ".hidden"):
        Path(name).touch()
    Path("folder").mkdir()
    Path("folder/inside.png").touch()
    assert completions("/") == ["/image ", "/audio ", "/clear", "/help", "/quit"]
    assert completions("/q") == ["/quit"]
    assert completions("/image ") == ["/image a b.png", "/image ab.wav", "/image folder/"]
    assert completions("/image a ") == ["/image a b.png"]
    assert completions("/audio f") == ["/audio folder/"]
    assert completions("/audio folder/") == ["/audio folder/inside.png"]
    assert completions("/image .") == ["/image .hidden"]
    assert completions("/image ~/a") == ["/image ~/a b.png", "/image ~/ab.wav"]
    for nothing in ("", "What is ", "/clear ", "/image nowhere/", "/image ~nobody-has-this/", "/image a\0/"):
        assert completions(nothing) == []


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_spinner_says_how_far_it_is_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinner, "AFTER_S", 0.0)
    monkeypatch.setattr(spinner, "FRAME_S", 0.001)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    with Spinner("loading it") as shown:
        while "loading it, 0 s" not in screen.getvalue():
            time.sleep(0.001)
        shown.advance(1, 3)
        while "loading it, 33 %, " not in screen.getvalue():
            time.sleep(0.001)
    assert screen.getvalue().endswith(ERASE)
    assert "\n" not in screen.getvalue()


def test_a_spinner_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinner, "AFTER_S", 0.0)
    for stream, kind in ((io.StringIO(), "xterm"), (Screen(), "dumb")):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", kind)
        with Spinner("loading it"):
            time.sleep(0.01)
        assert stream.getvalue() == ""


COMMANDS = {
    "": ("generate", "chat", "serve", "run-stream-omni", "run-batch", "quantize", "profile", "doctor"),
    "export": (
        *("flow", "encoder", "hift", "tokenizer", "listening", "vision", "all"),
        *("llm", "engine", "verify"),
    ),
    "bench": (
        *("engine", "codec", "streaming", "formats", "host", "kernels"),
        *("peers", "simulate", "speech", "text", "turns", "serve"),
    ),
    "eval": ("asr", "spoken-qa", "visit", "vqa", "tts", "duplex", "demo", "compare", "sweep"),
}
EVERY_COMMAND = [[group, name] if group else [name] for group, names in COMMANDS.items() for name in names]


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_all_commands_are_tried_here() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    assert sum(len(group.registered_commands) for group in groups if group) == len(EVERY_COMMAND)


@pytest.mark.parametrize("command", [[], *EVERY_COMMAND], ids=" ".join)
def test_help_says_in_words_what_an_option_takes(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert ended([*command, "--help"], monkeypatch) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "--help" in shown.out
    for word in ("<bool>", "<str>", "<int", "<float", "<path>", "BOOLEAN", "INTEGER RANGE", "FLOAT", "list["):
        assert word not in shown.out


@pytest.mark.parametrize("command", [[], *EVERY_COMMAND], ids=" ".join)
def test_an_option_that_does_not_exist_is_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended([*command, "--no-such-option"], monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    program = " ".join(["antiphon", *command])
    assert shown.err == f"antiphon: no such option: --no-such-option; see {program} --help\n"
