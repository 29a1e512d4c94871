"""Ctrl-C and SIGTERM: what was made is kept and said, and the process ends, without a traceback."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from command_line import Child, run_python
from terminal import Terminal

LONG = ["generate", "--text", "Tell me", "--temperature", "3", "--seed", "1", "--max-units", "1500"]
"""What the small model babbles for a minute."""
KNOWS = "coloured shapes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "status", "word"),
    [
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
    ],
    ids=["once", "twice"],
)
@pytest.mark.long
def test_a_request_is_stopped(tmp_path: Path, signals: list[int], status: int, word: str) -> None:
    child = Child(*LONG, "--out", "reply.wav", cwd=tmp_path)
    child.wait_for(b"reply ")
    for number in signals:
        child.signal(number)
        time.sleep(0.3)  # a second one within a moment would be the same
    ended = child.end()
    assert ended.status == status
    first, last = ended.err.splitlines()
    assert KNOWS in first
    assert last == f"antiphon: {word}"
    assert b"[stopped]\n" in ended.out
    assert re.search(rb"^speech  (none|[0-9]+ units): reply.wav was not written$", ended.out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


BUSY = """
import os, signal, sys, threading, time
from antiphon.cli import main

def interrupt():
    while not ready():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

def ready():
    return {ready}

{prepare}
threading.Thread(target=interrupt, daemon=True).start()
sys.argv = ["antiphon", "doctor"]
main()
"""
IN_A_KERNEL = """
import hashlib
from antiphon.cli import doctor
is_busy = False
def inspect_machine():
    global is_busy
    is_busy = True
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes, in which Python runs no handler
doctor.inspect_machine = inspect_machine
"""


@pytest.mark.parametrize(
    ("prepare", "ready"),
    [("", "'torch' in sys.modules"), (IN_A_KERNEL, "is_busy")],
    ids=["importing torch", "in a kernel"],
)
def test_what_cannot_be_stopped_in_order_is_ended(prepare: str, ready: str) -> None:
    ended = run_python("-c", BUSY.format(prepare=prepare, ready=ready), cwd="/")
    assert (ended.status, ended.out, ended.err) == (130, b"", "antiphon: interrupted\n")


DECODING = """
from antiphon.codec import Codec
is_busy = False
def decode(*_):
    global is_busy
    is_busy = True
    time.sleep(1000)
Codec.decode = decode
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_exit_does_not_wait_for_speech_that_is_being_made(tmp_path: Path) -> None:
    program = BUSY.format(prepare=DECODING, ready="is_busy")
    arguments = ["generate", "--text", "Hello", "--max-units", "4", "--out", "reply.wav"]
    program = program.replace('"doctor"', ", ".join(map(repr, arguments)))
    ended = run_python("-c", program, cwd=tmp_path)
    assert ended.status == 130
    assert ended.out.endswith(b"speech  4 units: reply.wav was not written\n")
    assert ended.err.endswith("antiphon: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """Where a block has noted the first one, and would take its time to look."""
    program = """
import hashlib, os, signal, threading, time
from pathlib import Path
from antiphon.cli import signals
from antiphon.files.writing import written_whole

def interrupt():
    for _ in range(2):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
with signals.watched(), signals.noted(), written_whole("file") as part:
    part.write_text("half")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""
    ended = run_python("-c", program, cwd=tmp_path)
    assert (ended.status, ended.err) == (130, "antiphon: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.slow
def test_a_talk_through_a_pipe_ends(tmp_path: Path) -> None:
    child = Child("chat", "--max-tokens", "4", cwd=tmp_path)
    child.send(b"Hello\n")
    child.wait_for(b"\n")  # behind the reply
    child.signal(signal.SIGINT)
    ended = child.end()
    assert ended.status == 130
    assert ended.err.endswith("antiphon: interrupted\n")
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.long
def test_at_a_terminal_it_stops_the_reply_then_the_line_then_the_talk(tmp_path: Path) -> None:
    ctrl_c = b"\x03"
    terminal = Terminal("chat", "--temperature", "3", "--seed", "1", "--out-dir", str(tmp_path))
    terminal.wait_for(b"> ")
    terminal.type(b"Tell me\n")
    terminal.wait_for(b"reply ")
    terminal.type(ctrl_c)
    terminal.wait_for(b"[stopped]")
    terminal.wait_for(b"> ")
    terminal.type(b"half a line" + ctrl_c)
    terminal.wait_for(b"press Ctrl-C again to leave")
    terminal.wait_for(b"> ")
    time.sleep(0.3)
    terminal.type(ctrl_c)
    terminal.wait_for(b"\r\nantiphon: interrupted")
    assert terminal.end() == 130
