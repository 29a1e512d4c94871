"""Each example runs as it stands, on the packaged model, and says what its docstring promises."""

from __future__ import annotations

import ast
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import TIMEOUT_S, run_python
from http_server import Served, serving_http
from tiny_speaker import save_speaker_network

from antiphon.codec import read_audio
from antiphon.server.settings import ReferenceSettings

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
CODEC = ROOT / "runtime" / "assets" / "tiny" / "cosyvoice"


def run(name: str, *arguments: str, cwd: Path) -> tuple[str, str]:
    """What an example writes to stdout and stderr."""
    done = run_python(str(EXAMPLES[name]), *arguments, cwd=cwd)
    assert done.status == 0, done.err
    return done.out.decode(), done.err


@pytest.mark.slow
@pytest.mark.long
def test_many_at_once(tmp_path: Path) -> None:
    out, _ = run("many_at_once", cwd=tmp_path)
    assert out.count(": ends (stop) after ") == 4
    assert "text to text: ends (stop) after 0 units" in out
    heard = re.findall(r"speech to speech: heard '(.*)'", out)
    assert "".join(heard) == "What is in the picture?"


@pytest.mark.slow
@pytest.mark.long
def test_open_session(tmp_path: Path) -> None:
    out, _ = run("open_session", cwd=tmp_path)
    updates = re.findall(r"^heard so far: (.*)$", out, re.MULTILINE)
    assert updates[-1] == "What is in the picture?"
    assert len(updates) > 1, "nothing was heard before the end"
    assert "I see a blue heart" in out
    assert re.search(r"first sound \d+\.\d\d s after the question", out)


@pytest.mark.slow
@pytest.mark.long
def test_play_reply(tmp_path: Path) -> None:
    process = run_python(str(EXAMPLES["play_reply"]), "How much is two plus three?", cwd=tmp_path)
    assert process.status == 0, process.err
    pieces = re.findall(r"(\d+\.\d\d) s of sound", process.err)
    assert len(pieces) > 1, "it came in one piece"
    assert len(process.out) / 2 / 22050 == pytest.approx(sum(map(float, pieces)), abs=0.01 * len(pieces))
    assert len(set(process.out)) > 100, "there is little in it but silence"


@pytest.mark.slow
@pytest.mark.long
def test_transcribe(tmp_path: Path) -> None:
    shutil.copy(ROOT / "runtime" / "assets" / "demo" / "question.wav", tmp_path / "one.wav")
    (tmp_path / "two.wav").write_bytes(b"not a sound")
    out, _ = run("transcribe", "one.wav", "two.wav", cwd=tmp_path)
    first, second = out.splitlines()
    assert first == "one.wav: What is in the picture?"
    assert second.startswith("two.wav: ")
    assert "expected" in second
    assert run("transcribe", cwd=tmp_path)[0] == "question.wav: What is in the picture?\n"


@pytest.mark.slow
@pytest.mark.long
def test_clone_voice(tmp_path: Path) -> None:
    out, _ = run("clone_voice", cwd=tmp_path)
    assert "cosyvoice has no campplus.onnx" in out
    assert "cloned.wav: 1.72 s" in out

    codec = Path(shutil.copytree(CODEC, tmp_path / "codec"))
    dim = int(re.findall(r"^spk_embed_dim: (\d+)", (codec / "cosyvoice.yaml").read_text(), re.MULTILINE)[0])
    save_speaker_network(codec / "campplus.onnx", dim)
    out, _ = run("clone_voice", "--codec", str(codec), "--out", "other.wav", cwd=tmp_path)
    assert out == "other.wav: 1.72 s in the voice 'clip'\n"
    own, cloned = (read_audio(tmp_path / name)[0] for name in ("cloned.wav", "other.wav"))
    assert own.shape == cloned.shape
    assert abs(own - cloned).max() > 0.01


@pytest.mark.slow
@pytest.mark.long
def test_codec_alone(tmp_path: Path) -> None:
    out, _ = run("codec_alone", cwd=tmp_path)
    assert "43 units" in out
    assert "first sound after 15 units, 37888 samples; whole: 37888" in out
    samples, rate_hz = read_audio(tmp_path / "again.wav")
    assert (len(samples), rate_hz) == (37888, 22050)


@pytest.mark.slow
@pytest.mark.long
def test_kernels_alone(tmp_path: Path) -> None:
    out, _ = run("kernels_alone", cwd=tmp_path)
    assert out.startswith("row 0: [7, 7, 3]\nrow 1: [3]\nrow 2: [5, 5]\n")
    for error in re.findall(r"off by (\S+)", out):
        assert float(error) < 1e-3
    assert re.search(r"^ctc_collapse +.*torch", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.long
def test_asyncio_service(tmp_path: Path) -> None:
    """Two clients at a time, of whom one hangs up; then Ctrl-C."""
    command = [sys.executable, str(EXAMPLES["asyncio_service"]), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as service:
        try:
            assert service.stdout is not None
            host, _, port = service.stdout.readline().removeprefix("listening on ").strip().partition(":")
            address = (host, int(port))
            with socket.create_connection(address, TIMEOUT_S) as leaves:
                leaves.sendall(b"What can you do?\n")
            with socket.create_connection(address, TIMEOUT_S) as client, client.makefile("rwb") as lines:
                for question in (b"How much is two plus three?\n", b"\n"):
                    lines.write(question)
                    lines.flush()
                    answer = lines.readline().decode()
                    assert ("five" if question.strip() else "error: content: expected") in answer
            service.send_signal(signal.SIGINT)
            assert service.stdout.read() == "stopped\n"
            assert service.wait(TIMEOUT_S) == 0
        finally:
            service.kill()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """With the released code's ports."""
    with serving_http(reference=ReferenceSettings(0, 0, 0)) as running:
        yield running


def assert_heard_and_answered(out: str, sound: Path) -> None:
    """The same of every example that asks the demo's question, whichever way it asks."""
    heard, reply, said = out.strip().splitlines()
    assert heard == "heard: What is in the picture?"
    assert reply == "reply: I see a blue heart and a red star and a black circle."
    assert said == f"sound: {sound}"
    samples, rate_hz = read_audio(sound)
    assert 1 < len(samples) / rate_hz < 8
    assert abs(samples).max() > 0.1


@pytest.mark.slow
def test_in_process(tmp_path: Path) -> None:
    out, _ = run("in_process", "--out", str(tmp_path / "said.wav"), cwd=tmp_path)
    assert_heard_and_answered(out, tmp_path / "said.wav")


@pytest.mark.long
@pytest.mark.slow
def test_openai_client(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "said.wav"
    out, _ = run("openai_client", "--base-url", f"{served.address}/v1", "--out", str(file), cwd=tmp_path)
    assert_heard_and_answered(out, file)


@pytest.mark.slow
def test_released_protocol(served: Served, tmp_path: Path) -> None:
    options = ("--controller", served.sites["controller"], "--codec-worker", served.sites["codec worker"])
    out, _ = run("released_protocol", *options, cwd=tmp_path)
    assert_heard_and_answered(out, Path(out.rpartition("sound: ")[2].strip()))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "said.mp3"
    command = ["sh", str(ROOT / "examples" / "curl.sh"), served.address, str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert_heard_and_answered(done.stdout, file)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_tried_here(name: str) -> None:
    assert f"test_{name}" in globals()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_commands_of_its_docstring_are_its_own(name: str) -> None:
    """They name the file, and only options that it has; `--help` comes from the same parser."""
    source = EXAMPLES[name].read_text()
    docstring = ast.get_docstring(ast.parse(source)) or ""
    commands = re.findall(r"^python examples/(\w+)\.py(.*)$", docstring, re.MULTILINE)
    assert commands
    for stem, arguments in commands:
        assert stem == name
        for option in re.findall(r"(?<!\S)--[\w-]+", arguments.partition("|")[0]):
            assert f'add_argument("{option}"' in source


@pytest.mark.parametrize("name", ["many_at_once", "transcribe"])
@pytest.mark.slow
@pytest.mark.long
def test_help(name: str, tmp_path: Path) -> None:
    out, _ = run(name, "--help", cwd=tmp_path)
    assert out.startswith(f"usage: {name}.py")
