"""Nothing leaves the machine, and nothing is left on it but what was asked for, whatever the entry point."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import network_guard
import pytest

from antiphon.process.footprint import CACHES, switch_telemetry_off

ROOT = Path(__file__).parents[2]
ANTIPHON = Path(sys.executable).with_name("antiphon")
UNROUTABLE = "192.0.2.1"
"""Reserved by RFC 5737: no machine has it."""

ENGINES = """
import asyncio
import numpy as np
from antiphon import AsyncEngine, Engine, Request, SamplingParams, Speech

silence = Speech((np.zeros(8000, np.float32), 16000))
request = Request([silence, "Hello"], modalities=("text", "audio"))
few = SamplingParams(max_units=16)
with Engine(progress=False) as engine:
    assert len(engine.generate([request], few)[0].audio)

async def main():
    async with AsyncEngine(progress=False) as engine:
        async for _ in engine.stream(Request("Hello"), few):
            pass

asyncio.run(main())
"""
CODEC_ALONE = """
import numpy as np
from antiphon.codec import Codec
from antiphon.assets.embedded import EMBEDDED_CODEC

codec = Codec.from_pretrained(EMBEDDED_CODEC)
units = codec.tokenize(np.zeros(16000, np.float32), 16000)
assert len(codec.decode([units])[0])
"""
ONNXRUNTIME_OF_ONES_OWN = """
import antiphon
import onnxruntime
from antiphon.assets.embedded import EMBEDDED_CODEC

onnxruntime.InferenceSession(EMBEDDED_CODEC / "speech_tokenizer_v1.onnx", providers=["CPUExecutionProvider"])
"""
A_RECIPE = f"""
import sys
sys.path.insert(0, {str(ROOT / "recipes" / "tiny")!r})
import antiphon_tiny
import onnxruntime
from matplotlib import font_manager
"""
PROGRAMS: dict[str, list[str | Path]] = {
    "engines": [sys.executable, "-c", ENGINES],
    "codec alone": [sys.executable, "-c", CODEC_ALONE],
    "onnxruntime of one's own": [sys.executable, "-c", ONNXRUNTIME_OF_ONES_OWN],
    "a recipe": [sys.executable, "-c", A_RECIPE],
    "generate": [ANTIPHON, "generate", "--demo", "--max-units", "16", "--out", "asked/reply.wav"],
    "chat": [ANTIPHON, "chat"],
    "doctor": [ANTIPHON, "doctor"],
    "bench": [ANTIPHON, "bench", "kernels", "--quick", "--op", "ctc_collapse", "--plot", "asked/plot.png"],
    "profile": [ANTIPHON, "profile", "--requests", "1", "--max-units", "16", "--trace", "asked/trace.json"],
}


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network_guard.build_preload(tmp_path_factory.mktemp("guard"))


def run_alone(command: list[str | Path], preload: Path, folder: Path) -> tuple[list[str], set[Path]]:
    """Runs a program for a newcomer: an empty home, no settings, and no word of a CI, where onnxruntime would
    keep still by itself. Returns what it wanted of the network, and the files that it left."""
    log, home, work, temporary = (folder / name for name in ("log", "home", "work", "tmp"))
    for place in (home, work / "asked", temporary):
        place.mkdir(parents=True)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": str(preload),
        "NETWORK_GUARD_LOG": str(log),
    }
    done = subprocess.run(
        command,
        check=False,
        cwd=work,
        env=environment,
        input="Hello\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    attempts = log.read_text().splitlines() if log.exists() else []
    left = {path for place in (home, work, temporary) for path in place.rglob("*")}
    return attempts, {path for path in left if work / "asked" not in (path, *path.parents)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.long
def test_nothing_leaves_and_nothing_is_left(name: str, preload: Path, tmp_path: Path) -> None:
    """`Engine()` once had onnxruntime (1.29 and later) write a device id and a data base of events into the
    user's cache and look up its maker's host; loading a codec left a folder of torch's compiler."""
    attempts, left = run_alone(PROGRAMS[name], preload, tmp_path)
    assert attempts == []
    assert left == set()


@pytest.mark.parametrize("before", [None, "", "0", "false"])
def test_telemetry_is_off_whatever_the_environment_says(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", before)
    switch_telemetry_off()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_caches_that_the_user_named_are_used(preload: Path, tmp_path: Path) -> None:
    program = f"""
import os
for variable in {list(CACHES)}:
    os.environ[variable] = os.path.join(os.getcwd(), "asked")
from antiphon.process.footprint import use_passing_caches
use_passing_caches()
from matplotlib import font_manager
assert os.listdir("asked")
"""
    assert run_alone([sys.executable, "-c", program], preload, tmp_path) == ([], set())


def test_the_guards_see_what_reaches_out(preload: Path, tmp_path: Path) -> None:
    """Both: in Python, and below it, where libraries look up names by themselves."""
    program = f"""
import ctypes, os, pathlib, socket
libc = ctypes.CDLL(None)
assert libc.getaddrinfo(b"host.invalid", None, None, ctypes.byref(ctypes.c_void_p()))
assert socket.socket().connect_ex(("{UNROUTABLE}", 9))
assert socket.socket(type=socket.SOCK_DGRAM).connect_ex(("127.0.0.1", 9)) == 0
pathlib.Path.home().joinpath("left").touch()
"""
    attempts, left = run_alone([sys.executable, "-c", program], preload, tmp_path)
    assert attempts == ["getaddrinfo host.invalid", f"connect {UNROUTABLE}"]
    assert {path.name for path in left} == {"left"}

    with pytest.raises(pytest.fail.Exception, match=re.escape(f"socket.connect {UNROUTABLE}")):
        socket.socket().connect((UNROUTABLE, 9))
    with pytest.raises(pytest.fail.Exception, match=r"host\.invalid"):
        socket.getaddrinfo("host.invalid", 9)
    assert network_guard.forget_attempts() == [
        f"socket.connect {UNROUTABLE}",
        "socket.getaddrinfo host.invalid",
    ]


def test_the_guard_lets_this_machine_speak_with_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    left, right = socket.socketpair()
    left.close()
    right.close()
    assert network_guard.forget_attempts() == []
