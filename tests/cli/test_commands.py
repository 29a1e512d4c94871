"""The command line as a user meets it: what is printed where, and the exit status."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import soundfile

from antiphon import Engine, Image, Message, Request, SamplingParams, Speech
from antiphon.cli import main
from antiphon.cli.generate import run as answer
from antiphon.cli.terminal import EventPrinter
from antiphon.types import Completion, TextDelta, TranscriptDelta

ASSETS = Path(__file__).parents[2] / "runtime" / "assets"
MODEL = str(ASSETS / "tiny" / "stream_omni")
CODEC = str(ASSETS / "tiny" / "cosyvoice")
QUESTION = str(ASSETS / "demo" / "question.wav")
PICTURE = str(ASSETS / "demo" / "shapes.png")
SHORT = ["--max-tokens", "8", "--max-units", "8"]
PARAMS = SamplingParams(max_tokens=8, max_units=8)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str = "") -> Ended: ...


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """What the program's answers are compared with."""
    with Engine() as engine:
        yield engine


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `antiphon ARGUMENTS` in this process."""

    def run(*arguments: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run


# --- generate -------------------------------------------------------------------------------------


def test_text_streams_to_stdout_and_what_the_packaged_model_knows_to_stderr(run: Run, engine: Engine) -> None:
    ended = run("generate", "--text", "Hello", *SHORT)
    [expected] = engine.generate([Request("Hello")], PARAMS)
    assert ended.status == 0
    assert ended.out.startswith("reply   ")
    assert expected.text.strip() in ended.out
    assert "coloured shapes" in ended.err


@pytest.mark.slow
def test_speech_is_heard_and_spoken(run: Run, engine: Engine, tmp_path: Path) -> None:
    wav = tmp_path / "reply.wav"
    ended = run("generate", "--image", PICTURE, "--audio", QUESTION, "--out", str(wav), *SHORT, "--seed", "3")
    assert ended.status == 0
    assert [line.split()[0] for line in ended.out.splitlines() if line.strip()][-1] == "speech"
    assert str(wav) in ended.out
    request = Request([Image(PICTURE), Speech(QUESTION)], modalities=("text", "audio"))
    [expected] = engine.generate([request], dataclasses.replace(PARAMS, seed=3))
    assert expected.audio is not None
    samples, rate_hz = soundfile.read(wav, dtype="float32")
    assert rate_hz == expected.sample_rate_hz
    assert samples.shape == expected.audio.shape
    assert abs(samples - expected.audio.clip(-1, 1)).max() < 2 / 2**15


def test_demo_is_the_packaged_question(run: Run) -> None:
    demo = run("generate", "--demo", "--json", *SHORT)
    explicit = run("generate", "--image", PICTURE, "--audio", QUESTION, "--json", *SHORT)
    assert demo.status == 0
    assert json.loads(demo.out)["text_ids"] == json.loads(explicit.out)["text_ids"]


@pytest.mark.slow
def test_json_is_the_completion_and_nothing_else(run: Run, engine: Engine, tmp_path: Path) -> None:
    wav = tmp_path / "reply.wav"
    ended = run("generate", "--text", "Hello", "--out", str(wav), "--json", *SHORT)
    assert ended.status == 0
    assert ended.out.count("\n") == 1
    record = json.loads(ended.out)
    [expected] = engine.generate([Request("Hello", modalities=("text", "audio"))], PARAMS)
    assert record["audio"] == str(wav)
    assert wav.exists()
    assert set(record) == {field.name for field in dataclasses.fields(Completion)}
    for name in ("text", "text_ids", "fusion_ids", "units", "unit_ids", "finish_reason", "sample_rate_hz"):
        assert record[name] == getattr(expected, name), name
    assert record["metrics"]["num_prompt_tokens"] == expected.metrics.num_prompt_tokens


def test_sampling_options_reach_the_request(run: Run, engine: Engine) -> None:
    options = ["--temperature", "0.9", "--top-p", "0.8", "--top-k", "40", "--seed", "7", "--system", "Sing."]
    ended = run("generate", "--text", "Hello", "--json", *options, *SHORT)
    params = dataclasses.replace(PARAMS, temperature=0.9, top_p=0.8, top_k=40, seed=7)
    [expected] = engine.generate([Request("Hello", system="Sing.")], params)
    assert json.loads(ended.out)["text_ids"] == expected.text_ids


@pytest.mark.slow
def test_a_named_checkpoint_is_used(run: Run) -> None:
    engine_options = ["--device", "cpu", "--dtype", "float32", "--codec-dtype", "float32"]
    engine_options += ["--block-size", "4"]
    named = run("generate", "--model", MODEL, "--codec", CODEC, "--demo", "--json", *engine_options, *SHORT)
    packaged = run("generate", "--demo", "--json", *SHORT)
    assert named.status == 0
    assert json.loads(named.out)["text_ids"] == json.loads(packaged.out)["text_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one of"),
        (["--text", "Hi", "--out", "x.wav", "--modalities", "text"], "--modalities"),
        (["--text", "Hi", "--out", "x.wav", "--model", MODEL], "--codec"),
        (["--text", "Hi", "--codec", CODEC], "--model"),
        (["--text", "Hi", "--out", "nowhere/x.wav"], "nowhere"),
        (["--text", "Hi", "--out", "x.mp3"], ".wav, .flac, .ogg"),
        (["--text", "Hi", "--top-p", "2"], "top_p: expected a number"),
        (["--text", "Hi", "--max-tokens", "none"], "--max-tokens"),
        (["--text", "Hi", "--voice", "nobody", "--modalities", "speech"], "nobody"),
        (["--image", QUESTION], "content[0]"),
        (["--image", "missing.png"], "missing.png"),
        (["--audio", PICTURE], "content[0]"),
        (["--demo", "--model", MODEL], "codec"),
    ],
    ids=lambda value: " ".join(value)[-24:] if isinstance(value, list) else "",
)
def test_what_the_user_got_wrong_is_said(run: Run, arguments: list[str], message: str) -> None:
    ended = run("generate", "--json", *arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("ending", ["flac", "ogg"])
def test_the_files_name_decides_its_format(run: Run, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"reply.{ending}"
    ended = run("generate", "--text", "Hello", "--out", str(file), *SHORT)
    assert ended.status == 0
    assert str(file) in ended.out
    assert soundfile.info(file).format == ending.upper()


def test_ctrl_c_ends_the_request_and_not_the_engine(engine: Engine) -> None:
    """An exception inside a step would leave the caches in any state, and a chat without its engine."""
    before = signal.getsignal(signal.SIGINT)
    request = Request("Hello", sampling_params=SamplingParams(max_tokens=200, ignore_eos=True))
    stopped = answer(engine, request, lambda _: signal.raise_signal(signal.SIGINT))
    assert stopped.finish_reason == "abort"
    assert 0 < len(stopped.text_ids) < 200
    assert signal.getsignal(signal.SIGINT) is before
    assert len(answer(engine, request).text_ids) == 200
    engine.check_integrity()


@pytest.mark.parametrize("folder", [CODEC, str(ASSETS / "nothing")], ids=["codec", "nothing"])
def test_a_wrong_checkpoint_is_one_line(run: Run, folder: str) -> None:
    ended = run("generate", "--text", "Hi", "--model", folder)
    assert ended.status == 1
    assert ended.out == ""
    assert ended.err.startswith("antiphon: ")
    assert ended.err.count("\n") == 1


# --- chat -----------------------------------------------------------------------------------------


def test_chat_remembers(run: Run, engine: Engine) -> None:
    ended = run("chat", *SHORT, stdin=f"Hello\n/image {PICTURE}\nAnd this?\n/quit\nnever read\n")
    first = Message("user", "Hello")
    [answer] = engine.generate([Request(messages=[first])], PARAMS)
    second = Message("user", [Image(PICTURE), "And this?"])
    history = [first, *([Message("assistant", answer.text)] if answer.text else []), second]
    [followed] = engine.generate([Request(messages=history)], PARAMS)
    assert ended.status == 0
    assert ended.out.count("reply   ") == 2
    assert answer.text.strip() in ended.out
    assert followed.text.strip() in ended.out


def test_chat_speaks(run: Run, tmp_path: Path) -> None:
    ended = run("chat", "--out-dir", str(tmp_path / "replies"), *SHORT, stdin=f"/audio {QUESTION}\nHello\n")
    assert ended.status == 0
    assert sorted(path.name for path in (tmp_path / "replies").iterdir()) == ["reply-1.wav", "reply-2.wav"]


def test_a_reply_takes_no_others_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chats write into one folder."""
    other = tmp_path / "reply-2.wav"

    def lines() -> Iterator[str]:
        yield "Hello"
        other.write_bytes(b"of another chat")
        yield "Hello"

    monkeypatch.setattr("antiphon.cli.chat.lines", lines)
    assert run("chat", "--out-dir", str(tmp_path), *SHORT).status == 0
    assert other.read_bytes() == b"of another chat"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply-1.wav", "reply-2.wav", "reply-3.wav"]


def test_audio_is_another_word_for_speech(run: Run) -> None:
    ended = run("generate", "--text", "Hello", "--modalities", "audio", "--json", *SHORT)
    assert ended.status == 0
    assert json.loads(ended.out)["units"]


def test_chat_goes_on_after_a_mistake(run: Run, tmp_path: Path) -> None:
    half = tmp_path / "half.png"
    half.write_bytes(Path(PICTURE).read_bytes()[:500])
    lines = ["/image nowhere.png", "/dance", f"/image {QUESTION}", f"/image {half}", "Hello", "Hello", ""]
    ended = run("chat", *SHORT, stdin="\n".join(lines))
    assert ended.status == 0
    assert "nowhere.png" in ended.err
    assert "/quit" in ended.err, "an unknown command shows what there is"
    assert f"antiphon: {QUESTION}: " in ended.err, "a file that is no picture"
    assert f"picture {half}, 320 x 256, goes with the next question\n" in ended.err
    assert "content[0]" in ended.err, "the question whose picture cannot be decoded"
    assert ended.out.count("reply   ") == 1, "the same question without it"


@pytest.mark.slow
def test_chat_forgets(run: Run) -> None:
    once = run("chat", *SHORT, stdin="Hello\n")
    twice = run("chat", *SHORT, stdin="Hello\n/clear\nHello\n")
    assert twice.out == once.out * 2


# --- doctor, help, terminal -----------------------------------------------------------------------


def test_doctor(run: Run) -> None:
    report = json.loads(run("doctor", "--json").out)
    assert report["versions"]["torch"]
    assert report["cpu"]["cores"] >= 1
    assert report["kernels"]["ctc_collapse"][0] == "cpp on cpu"
    assert Path(report["packaged model"]["model"]).is_dir()
    table = run("doctor")
    assert table.status == 0
    for section, values in report.items():
        assert section in table.out
        assert all(name in table.out for name in values)
    shown = "".join(table.out.split())  # lines are folded
    for value in (*report["sound"].values(), *report["attention backends"].values()):
        assert not isinstance(value, str) or "".join(value.split()) in shown, "brackets are text, not markup"


def test_help_and_version_load_no_torch() -> None:
    program = """
import sys
from antiphon.cli import main
from antiphon.cli.generate import run as answer
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    for argument, shown in (("--help", "generate"), ("--version", "antiphon ")):
        command = [sys.executable, "-c", program, argument]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
        assert shown in done.stdout


def test_what_a_model_says_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printer = EventPrinter()
    printer.show(TranscriptDelta("0", "[red]hear"))
    printer.show(TranscriptDelta("0", "d[/]"))
    printer.show(TextDelta("0", "\x1b[2Jzwölf\n\x07\ttwölf"))
    printer.finish(Completion("0", finish_reason="length", units=[1, 2]), None)
    assert capsys.readouterr().out == (
        "heard   [red]heard[/]\n"
        "reply   \ufffd[2Jzwölf\n"
        "\ufffd\ttwölf [cut off at the limit]\n"
        "speech  2 units\n"
    )
