"""`antiphon serve` as a process: where it answers, and how it ends."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import httpx2
import pytest
from command_line import Child, antiphon

SERVE = ("serve", "--device", "cpu", "--port", "0")
ANY_PORTS = ("--reference-ports", "--controller-port", "0", "--codec-worker-port", "0", "--worker-port", "0")


@pytest.mark.slow
@pytest.mark.long
def test_the_ports_of_the_released_code_are_printed_and_end_with_the_server() -> None:
    child = Child(*SERVE, *ANY_PORTS)
    child.wait_for(b"serving at ")
    addresses = dict(re.findall(r"([\w ]+) at (http://127\.0\.0\.1:\d+)\n", child.out.decode()))
    assert {"controller", "codec worker", "model worker"} <= addresses.keys()
    status = httpx2.post(f"{addresses['model worker']}/worker_get_status", timeout=60).json()
    assert httpx2.post(f"{addresses['controller']}/list_models", timeout=60).json() == {
        "models": status["model_names"]
    }
    spoken = httpx2.post(
        f"{addresses['codec worker']}/token_to_speech", json={"tokens": "<Audio_1>"}, timeout=60
    )
    folder = Path(spoken.json()["audio_file"]).parent
    assert folder.is_dir()
    child.signal(signal.SIGTERM)
    ended = child.end()
    assert "Traceback" not in ended.err
    assert not folder.exists()
    with pytest.raises(httpx2.ConnectError):
        httpx2.post(f"{addresses['controller']}/list_models", timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wav-dir", "."], "--reference-ports"),
        (["--allow-external-workers"], "--reference-ports"),
        (["--reference-ports", "--worker-port", "70000"], "--worker-port"),
        ([*ANY_PORTS, "--wav-dir", "/dev/null/wavs"], "--wav-dir"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
@pytest.mark.long
def test_what_is_wrong_is_said(arguments: list[str], message: str) -> None:
    ended = antiphon(*SERVE, *arguments)
    assert ended.status == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert sys.executable not in ended.err
