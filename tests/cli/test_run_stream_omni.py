"""`antiphon run-stream-omni` takes the flags of the released scripts, and prints what they print."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import soundfile

from antiphon import Completion, Engine, Image, Request, SamplingParams, Speech
from antiphon.cli import main, options
from antiphon.types import Part

ASSETS = Path(__file__).parents[2] / "runtime" / "assets"
MODEL = str(ASSETS / "tiny" / "stream_omni")
CODEC = str(ASSETS / "tiny" / "cosyvoice")
QUESTION = str(ASSETS / "demo" / "question.wav")
PICTURE = str(ASSETS / "demo" / "shapes.png")
HEADINGS = ("ASR Outputs:", "LLM Outputs:", "Speech Tokens:", "Speech Outputs:")


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def sections(self) -> dict[str, str]:
        """What is printed under each heading."""
        pieces = re.split(rf"^({'|'.join(HEADINGS)})\n", self.out, flags=re.MULTILINE)
        assert pieces[0] == ""
        return {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}


class Run(Protocol):
    def __call__(self, *arguments: str) -> Ended: ...


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        yield engine


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `antiphon run-stream-omni ARGUMENTS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["antiphon", "run-stream-omni", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run


def expected(engine: Engine, *parts: Part, speaks: bool = False, limit: int = 12) -> Completion:
    params = SamplingParams(max_units=limit) if speaks else SamplingParams(max_tokens=limit)
    modalities = ("text", "audio") if speaks else ("text",)
    [done] = engine.generate([Request(list(parts), modalities)], params)
    return done


def check_speech(engine: Engine, ended: Ended, done: Completion) -> None:
    tokens = "".join(f"<Audio_{unit}>" for unit in done.units)
    name = f"output_{hashlib.md5(tokens.encode()).hexdigest()}.wav"
    assert ended.sections["Speech Tokens:"] == tokens
    assert ended.sections["Speech Outputs:"] == f"Audio saved at ./{name}"
    samples, rate_hz = soundfile.read(name, dtype="float32")
    assert rate_hz == 22050
    assert engine.codec is not None
    [audio] = engine.codec.decode([done.units])
    assert abs(samples - audio.clip(-1, 1)).max() < 2 / 2**15


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("flag", [(), ("--s2s",), ("--inference-type", "speech_to_speech")], ids=str)
def test_speech_to_speech(run: Run, engine: Engine, flag: tuple[str, ...]) -> None:
    ended = run("--query", QUESTION, "--image-file", PICTURE, "--max_new_tokens", "12", *flag)
    done = expected(engine, Image(PICTURE), Speech(QUESTION), speaks=True)
    assert ended.status == 0, ended.err
    assert tuple(ended.sections) == HEADINGS
    assert ended.sections["ASR Outputs:"] == done.transcript
    assert ended.sections["LLM Outputs:"] == done.text
    check_speech(engine, ended, done)


@pytest.mark.slow
@pytest.mark.parametrize("flag", [(), ("--t2s",)], ids=str)
def test_text_to_speech(run: Run, engine: Engine, flag: tuple[str, ...]) -> None:
    ended = run("--query", "Hello", "--max_new_tokens", "12", *flag)
    done = expected(engine, "Hello", speaks=True)
    assert ended.status == 0, ended.err
    assert tuple(ended.sections) == HEADINGS[1:]
    assert ended.sections["LLM Outputs:"] == done.text
    check_speech(engine, ended, done)


@pytest.mark.slow
def test_speech_to_text(run: Run, engine: Engine) -> None:
    ended = run("--query", QUESTION, "--image-file", PICTURE, "--s2t", "--max_new_tokens", "12")
    done = expected(engine, Image(PICTURE), Speech(QUESTION))
    assert ended.status == 0, ended.err
    assert ended.sections == {"ASR Outputs:": done.transcript, "LLM Outputs:": done.text}


@pytest.mark.slow
def test_in_8_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, schemes = options.open_engine, []

    def noted(*arguments: Any, quantization: str | None, **settings: Any) -> Engine:
        schemes.append(quantization)
        return opened(*arguments, quantization=quantization, **settings)

    monkeypatch.setattr(options, "open_engine", noted)
    ended = run("--query", "Hello", "--t2t", "--max_new_tokens", "12", "--load-8bit")
    assert ended.status == 0, ended.err
    assert schemes == ["int8"]
    with Engine(quantization="int8") as engine:
        assert ended.sections["LLM Outputs:"] == expected(engine, "Hello").text


@pytest.mark.slow
def test_text_to_text_with_all_flags_of_the_scripts(run: Run, engine: Engine) -> None:
    ended = run(
        *("--model-path", MODEL, "--model-name", "stream_omni", "--conv-mode", "stream_omni_llama_3_1"),
        *("--image-file", f"{PICTURE};{PICTURE}", "--sep", ";", "--query", "What is it?"),
        *("--temperature", "0", "--top_p", "0.9", "--num_beams", "1", "--max_new_tokens", "12", "--t2t"),
    )
    done = expected(engine, Image(PICTURE), Image(PICTURE), "What is it?")
    assert ended.status == 0, ended.err
    assert ended.sections == {"LLM Outputs:": done.text}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--query"),
        (["--query", "Hi", "--num_beams", "2"], "beam search is not supported"),
        (["--query", "Hi", "--model-base", "llama"], "--model-base"),
        (["--query", "Hi", "--conv-mode", "vicuna_v1"], "vicuna_v1"),
        (["--query", "Hi", "--t2t", "--s2s"], "only one"),
        (["--query", "Hi", "--t2t", "--inference-type", "text_to_speech"], "only one"),
        (["--query", "Hi", "--inference-type", "text_to_smell"], "--inference-type"),
        (["--query", "Hi", "--model-path", MODEL], "--codec"),
        (["--query", "Hi", "--t2t", "--codec", CODEC], "--model"),
        (["--query", "nowhere.wav"], "--query"),
        (["--query", "Hi", "--image-file", f"{PICTURE},nowhere.png"], "--image-file"),
        (["--query", "Hi", "--image-file", PICTURE, "--sep", ""], "--sep"),
        (["--query", "Hi", "--temperature", "0.5", "--top_p", "2"], "top_p"),
        (["--query", "Hi", "--max_new_tokens", "0"], "--max_new_tokens"),
    ],
    ids=lambda value: " ".join(value)[-24:] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said(run: Run, arguments: list[str], message: str) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_flags_of_the_scripts_that_agree_with_the_type(run: Run, engine: Engine) -> None:
    both = run("--query", "Hello", "--t2t", "--inference-type", "text_to_text", "--max_new_tokens", "4")
    assert both.sections == {"LLM Outputs:": expected(engine, "Hello", limit=4).text}
