"""`antiphon chat --mic` and `--play`, with a room in place of the sound devices (`fake_sounddevice`)."""

from __future__ import annotations

import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import TIMEOUT_S, run_python
from fake_sounddevice import FakeSoundDevice, PortAudioError

from antiphon.aio.conversation.conversation import Conversation
from antiphon.cli import main, sound_card

DEMO = Path(__file__).parents[2] / "runtime" / "assets" / "demo"
HELPERS = Path(__file__).parents[1] / "helpers"
PICTURE = DEMO / "shapes.png"
HEARD = "heard   What is in the picture?\n"
REPLY = "reply   I see a blue heart and a red star and a black circle."
SILENT_S = 0.7
"""Between what one says and what one says next."""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


class Room:
    """A person with the program in front of them. The methods are for scripts, which run in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.sound = FakeSoundDevice()
        self.question, rate_hz = soundfile.read(DEMO / "question.wav", dtype="float32")
        assert rate_hz == 16000
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._keyboard = -1
        self._out = self._err = ""
        monkeypatch.setitem(sys.modules, "sounddevice", self.sound)

    def run(
        self, script: Callable[[], None], *arguments: str, is_terminal: bool = False, command: str = "chat"
    ) -> Ended:
        """Runs the program while the script runs; /quit is typed at its end."""
        self._out = self._err = ""
        self._keyboard, stdin = pty.openpty() if is_terminal else os.pipe()[::-1]
        failed: list[BaseException] = []

        def play() -> None:
            try:
                script()
            except BaseException as error:  # noqa: BLE001
                failed.append(error)
            self.type("/quit")

        with os.fdopen(stdin) as file:
            self._monkeypatch.setattr(sys, "stdin", file)
            self._monkeypatch.setattr(sys, "argv", ["antiphon", command, *arguments])
            thread = threading.Thread(target=play, daemon=True)
            thread.start()
            with pytest.raises(SystemExit) as end:
                main()
            thread.join(TIMEOUT_S)
        os.close(self._keyboard)
        self._read_out()
        if failed:
            raise AssertionError(f"the script failed: {self._out}\n{self._err}") from failed[0]
        return Ended(int(end.value.code or 0), self._out, self._err)

    def type(self, line: str) -> None:
        os.write(self._keyboard, line.encode() + b"\n")

    def say_question(self) -> None:
        until(lambda: bool(self.sound.opened) and self.sound.stream("input").active)
        time.sleep(SILENT_S)
        self.sound.speak(self.question)
        until(lambda: not self.sound.is_speaking)

    def hear_reply(self) -> None:
        """Returns when a reply has been heard from its first word to its last."""
        until(lambda: self.sound.is_sounding)
        # On a busy machine its sound may come with gaps. Its line ends when it has been heard.
        until(lambda: not self.sound.is_sounding and self._read_out().endswith("\n"))

    def read(self, text: str) -> None:
        """Returns when the program has printed this."""
        until(lambda: text in self._read_out() + self._err)

    def _read_out(self) -> str:
        shown = self._capsys.readouterr()
        self._out += shown.out
        self._err += shown.err
        return self._out


def until(is_there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Room:
    return Room(monkeypatch, capsys)


@pytest.fixture
def truncations(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of each reply that was stopped, how much was heard."""
    found: list[float] = []
    truncate = Conversation.truncate

    async def noted(self: Conversation, item_id: str, audio_end_s: float) -> None:
        await truncate(self, item_id, audio_end_s)
        item = await self.find_item(item_id)
        assert item.heard_s == audio_end_s
        found.append(audio_end_s)

    monkeypatch.setattr(Conversation, "truncate", noted)
    return found


# --- a talk ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_question_is_answered_and_a_reply_is_not_heard_by_the_microphone(room: Room) -> None:
    def script() -> None:
        room.type(f"/image {PICTURE}")
        room.say_question()
        until(lambda: room.sound.is_sounding)
        room.sound.speak(room.question)  # as if the loudspeaker's sound came back
        room.hear_reply()

    ended = room.run(script, "--mic")
    assert ended.out == HEARD + REPLY + "\n"
    assert ended.status == 0
    assert "speak; /help" in ended.err
    assert np.abs(room.sound.played).max() > 0.1
    assert all(stream.is_closed for stream in room.sound.opened)


@pytest.mark.slow
@pytest.mark.long
def test_speech_interrupts_with_headphones(room: Room, truncations: list[float]) -> None:
    def script() -> None:
        room.type(f"/image {PICTURE}")
        room.say_question()
        until(lambda: room.sound.is_sounding)
        time.sleep(1.0)
        room.sound.speak(room.question)
        room.read(HEARD + REPLY[:10])
        until(lambda: len(truncations) == 1)
        until(lambda: not room.sound.is_sounding)
        room.hear_reply()

    ended = room.run(script, "--mic", "--headphones", "--turn-detection", "semantic_vad")
    first, second, *_ = ended.out.split("heard   ")[1:]
    assert first.endswith(" [stopped]\n")
    assert "reply   " in second and not second.endswith("[stopped]\n")
    assert 0.5 < truncations[0] < 3.0


@pytest.mark.slow
@pytest.mark.long
def test_enter_ends_a_turn_and_stops_a_reply(room: Room, truncations: list[float]) -> None:
    def script() -> None:
        room.type(f"/image {PICTURE}")
        room.say_question()
        room.type("")
        until(lambda: room.sound.is_sounding)
        time.sleep(1.0)
        room.type("")
        until(lambda: len(truncations) == 1)
        time.sleep(0.6)
        assert not room.sound.is_sounding
        room.type("/help")
        room.read("or end the question")

    ended = room.run(script, "--mic", "--turn-detection", "none", is_terminal=True)
    assert ended.out == HEARD + REPLY + " [stopped]\n"
    assert 0.5 < truncations[0] < 3.0
    assert "speak, then press Enter" in ended.err


@pytest.mark.slow
def test_ctrl_c_stops_a_reply(room: Room, truncations: list[float]) -> None:
    def script() -> None:
        room.say_question()
        until(lambda: room.sound.is_sounding)
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: len(truncations) == 1)
        os.kill(os.getpid(), signal.SIGINT)
        room.read("press Ctrl-C again to leave")
        room.type("Hello")  # stays
        room.hear_reply()

    ended = room.run(script, "--mic", is_terminal=True)
    assert ended.out.count("[stopped]") == 1
    assert ended.out.count("reply   ") == 2
    assert ended.status == 0


LEAVING = """
import os, signal, sys, threading, time
from fake_sounddevice import FakeSoundDevice
fake = sys.modules["sounddevice"] = FakeSoundDevice()
from antiphon.cli import main

def interrupt():
    while not (fake.opened and fake.stream("input").active):
        time.sleep(0.05)
    for _ in range(2):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.argv = ["antiphon", "chat", "--mic"]
main()
"""


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_twice_leaves(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(HELPERS)!r}){LEAVING}"
    ended = run_python("-c", program, cwd=tmp_path)
    assert ended.status == 130
    assert ended.err.splitlines()[1:] == [
        "speak; /help lists the commands",
        "press Ctrl-C again to leave",
        "antiphon: interrupted",
    ]


@pytest.mark.slow
@pytest.mark.long
def test_what_is_piped_is_done_in_order(room: Room, tmp_path: Path) -> None:
    """Each question is answered and heard before the next line is taken; what is wrong is said, and the talk
    goes on."""
    (tmp_path / "half a picture").write_bytes(Path(PICTURE).read_bytes()[:500])
    (tmp_path / "no picture").write_bytes(b"text")
    lines = [
        "/image nowhere.png",
        f"/image '{tmp_path / 'no picture'}'",
        f"/image '{tmp_path / 'half a picture'}'",
        "What is it?",  # refused, and its picture is dropped
        f"/image {PICTURE}",
        f"/audio {DEMO / 'question.wav'}",
        "/clear",
        "Hello",
    ]
    ended = room.run(lambda: room.type("\n".join(lines)), "--mic")
    assert ended.out.startswith(HEARD + REPLY + "\nreply   ")
    assert ended.out.count("\n") == 3
    _, _, *said = ended.err.splitlines()
    errors = [line for line in said if line.startswith("antiphon: ")]
    assert "nowhere.png" in errors[0]
    assert "no picture': " in errors[1]
    assert errors[2].startswith("antiphon: messages[0]")
    assert len(errors) == 3
    others = [line for line in said if line not in errors]
    assert [line.rpartition(", ")[2] for line in others[:2]] == ["goes with the next question"] * 2
    assert others[2:] == ["the conversation is forgotten"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.long
def test_a_device_that_goes_away_ends_the_talk(room: Room, kind: str) -> None:
    def script() -> None:
        room.say_question()
        until(lambda: room.sound.is_sounding)
        room.sound.stream(kind).unplug()
        room.read("is gone")

    ended = room.run(script, "--mic")
    assert ended.status == 1
    word = "microphone" if kind == "input" else "loudspeaker"
    assert ended.err.splitlines()[-1] == f"antiphon: the {word} is gone"


@pytest.mark.slow
@pytest.mark.long
def test_devices_of_other_rates_and_channels(room: Room) -> None:
    """By name; a stereo microphone of 48 kHz alone, and a loudspeaker of 44.1 kHz."""
    sound = room.sound
    sound.devices[2] |= {"default_samplerate": 48000.0, "max_input_channels": 2}
    sound.devices[1]["default_samplerate"] = 44100.0
    sound.refused = {("input", 16000, 1): -9997, ("input", 48000, 1): -9998}
    room.question = np.repeat(room.question, 3)

    def script() -> None:
        room.type(f"/image {PICTURE}")
        room.say_question()
        room.hear_reply()

    ended = room.run(script, "--mic", "--input-device", "other", "--output-device", "1")
    assert ended.out == HEARD + REPLY + "\n"
    assert (sound.stream("input").device, sound.stream("input").num_channels) == (2, 2)
    assert sound.stream("output").samplerate == 44100


# --- what is missing ------------------------------------------------------------------------------


def no_package(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)


def no_library(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(sound_card, "import_module", load)


def no_start(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise PortAudioError("Error initializing PortAudio: out of memory", -9992)

    monkeypatch.setattr(sound_card, "import_module", load)


def no_card(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.sound.devices.clear()


def no_microphone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    del room.sound.devices[2], room.sound.devices[0]


def busy_microphone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.sound.in_use.add("input")


def busy_speaker(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.sound.in_use.add("output")


def strange(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.sound.refused = {("output", 22050, 1): -9999}


Missing = Callable[[Room, pytest.MonkeyPatch], None]
MISSING: list[tuple[Missing, list[str], str]] = [
    (no_package, ["--mic"], "sounddevice is not installed: pip install 'antiphon[mic]'"),
    (no_library, ["--mic"], "PortAudio's library is not installed: apt install libportaudio2"),
    (no_start, ["--mic"], "the sound card cannot be used: Error initializing PortAudio"),
    (no_card, ["--mic"], "no sound card was found"),
    (no_microphone, ["--mic"], "no input device (a microphone) was found"),
    (busy_microphone, ["--mic"], "the microphone (Fake Mic) is in use by another program"),
    (busy_speaker, ["--mic"], "the loudspeaker (Fake Speaker) is in use by another program"),
    (busy_speaker, ["--play"], "the loudspeaker (Fake Speaker) is in use by another program"),
    (strange, ["--play"], "the loudspeaker (Fake Speaker) cannot be opened: refused"),
    (no_package, ["--play"], "sounddevice is not installed: pip install 'antiphon[mic]'"),
    (lambda room, patch: None, ["--mic", "--input-device", "x"], "0 Fake Mic, 2 Other Mic; got 'x'"),
    (lambda room, patch: None, ["--play", "--output-device", "0"], "one of 1 Fake Speaker; got '0'"),
]


@pytest.mark.parametrize(("take_away", "arguments", "message"), MISSING)
def test_what_is_missing_is_said_before_the_model_is_loaded(
    room: Room, monkeypatch: pytest.MonkeyPatch, take_away: Missing, arguments: list[str], message: str
) -> None:
    take_away(room, monkeypatch)
    ended = room.run(lambda: None, *arguments)
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "--headphones"], "--headphones"),
        (["chat", "--turn-detection", "none"], "--turn-detection"),
        (["chat", "--input-device", "1", "--play"], "--input-device"),
        (["chat", "--output-device", "1"], "--output-device"),
        (["chat", "--mic", "--out-dir", "x"], "--out-dir"),
        (["chat", "--mic", "--model", "x"], "--codec"),
        (["chat", "--play", "--model", "x"], "--codec"),
        (["generate", "--demo", "--play", "--modalities", "text"], "--play"),
        (["generate", "--demo", "--play", "--model", "x"], "--codec"),
        (["generate", "--demo", "--output-device", "1"], "--output-device"),
    ],
)
def test_options_that_do_not_go_together(room: Room, arguments: list[str], message: str) -> None:
    command, *others = arguments
    ended = room.run(lambda: None, *others, command=command)
    assert ended.status == 2
    assert message in ended.err


# --- replies that are played ----------------------------------------------------------------------


@pytest.mark.slow
def test_generate_plays_what_it_writes(room: Room, tmp_path: Path) -> None:
    wav = tmp_path / "reply.wav"
    ended = room.run(lambda: None, "--demo", "--play", "--out", str(wav), command="generate")
    assert ended.out.startswith(HEARD + REPLY)
    written, _ = soundfile.read(wav, dtype="float32")
    played = room.sound.played
    begin = int(np.flatnonzero(played)[0]) - int(np.flatnonzero(written)[0])
    joined = played[played != 0]
    assert np.isclose(np.abs(joined).sum(), np.abs(written).sum(), rtol=1e-2)
    assert np.abs(played[begin:][:4000] - written[:4000]).max() < 1e-3


@pytest.mark.slow
def test_a_chat_plays_its_replies_one_after_another(room: Room) -> None:
    def script() -> None:
        room.type("Hello")
        room.hear_reply()
        room.type("Hello")
        room.hear_reply()

    ended = room.run(script, "--play")
    assert ended.out.count("reply   ") == 2
    assert "speech" not in ended.out
    assert ended.status == 0


# --- the terminal ---------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to a terminal of 20 columns."""
    from antiphon.cli import terminal

    said: list[str] = []
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal, "say", lambda text, **_: said.append(text))
    monkeypatch.setattr("typer.style", lambda text, **_: text)
    return said


def test_what_is_heard_grows_and_is_taken_back_on_all_of_its_rows(terminal: list[str]) -> None:
    from antiphon.cli.talk_printer import TalkPrinter

    printer = TalkPrinter()
    printer.hear("What is")
    printer.hear("What is in the picture")
    printer.hear("What is in a\x1b box?", is_all=True)
    printer.reply("A cat.")
    printer.typed()
    printer.hear("No")
    printer.end_reply()
    assert terminal == [
        *("heard   ", "What is", " in the picture"),
        *("\x1b[1A\r\x1b[J", "heard   ", "What is in a\N{REPLACEMENT CHARACTER} box?", "\n"),
        *("reply   ", "A cat.", "heard   ", "No", "\n"),
    ]
