"""The Dockerfile does what it says, as far as that can be tried without Docker: its steps are carried out in
a scratch folder, where nothing is downloaded and the packages of this environment stand in for the lock's."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import compile_once
import pytest
from source_trees import ROOT, sources

TIMEOUT_S = 120


@dataclass(frozen=True)
class Step:
    name: str
    text: str


def stages() -> list[list[Step]]:
    """The instructions from each FROM on."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[Step]] = []
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Step(name, rest.strip()))
    return found


BUILD, FINAL = stages()


def only(name: str) -> str:
    [step] = [step for step in FINAL if step.name == name]
    return step.text


def entry_point() -> list[str]:
    return [str(each) for each in json.loads(only("ENTRYPOINT"))]


def test_the_image_is_small_and_has_no_root() -> None:
    bases = {stage[0].text.partition(" ")[0] for stage in (BUILD, FINAL)}
    [base] = bases
    assert re.fullmatch(r"python:3\.1[0-2]\.\d+-slim-\w+", base), "a release, whatever comes later"
    assert not re.search(r"apt-get|pip|g\+\+", " ".join(step.text for step in FINAL if step.name == "RUN"))
    names = [step.name for step in FINAL]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert only("USER") not in ("root", "0")
    assert only("EXPOSE") == "8000"
    assert entry_point() == ["antiphon", "serve", "--host", "0.0.0.0"]


def context() -> list[Path]:
    """What of this repository Docker would be given."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def is_left_out(path: Path) -> bool:
        parents = [*path.parents][:-1]
        return any(
            fnmatch.fnmatch(
                part.name if pattern.startswith("**/") else str(part), pattern.removeprefix("**/")
            )
            and ("/" in pattern or len(part.parts) == 1)
            for part in (path, *parents)
            for pattern in patterns
        )

    return [path for path in sources() if not is_left_out(path)]


@pytest.mark.slow
@pytest.mark.long
def test_its_steps_make_a_server(tmp_path: Path) -> None:
    source, opt = tmp_path / "src", tmp_path / "opt" / "antiphon"
    for path in context():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "CXX": compile_once.command(ROOT / "build" / "objects"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying yes
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    def run(command: str) -> None:
        command = command.replace("/opt/antiphon", str(opt))
        command = re.sub(r"^python\b", sys.executable, command)
        done = subprocess.run(
            command, shell=True, check=False, cwd=source, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    steps = [step.text for step in BUILD if step.name == "RUN" and not step.text.startswith("apt-get")]
    for command in steps:
        run(command)
        if "-m venv" in command:  # from here on it sees what is installed here, but not this antiphon
            seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
            [packages] = opt.glob("lib/python3*/site-packages")
            for old in packages.glob("setuptools*"):  # Python 3.10 and 3.11 put one there that is too old
                shutil.rmtree(old)
            (packages / "seen.pth").write_text("\n".join(seen))
    shutil.rmtree(source)  # the image has only what was installed

    home = tmp_path / "home"
    home.mkdir()
    on_path = re.fullmatch(r"PATH=(.*):\$PATH", only("ENV"))
    assert on_path is not None
    programs = on_path[1].replace("/opt/antiphon", str(opt))
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    server = subprocess.Popen(
        [*entry_point(), "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=home, env=environment
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline()
        port = re.fullmatch(r"serving at http://0\.0\.0\.0:(\d+)\n", address)
        assert port is not None, address
        assert is_healthy(port[1], environment)
        server.send_signal(signal.SIGTERM)  # docker stop
        assert server.wait(TIMEOUT_S) == 0
        assert not is_healthy(port[1], environment)
    finally:
        server.kill()
        server.wait()


def is_healthy(port: str, environment: dict[str, str]) -> bool:
    """Whether the image's own question is answered."""
    command = [str(each) for each in json.loads(only("HEALTHCHECK").partition("CMD")[2])]
    command = [part.replace(":8000/", f":{port}/") for part in command]
    done = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=TIMEOUT_S)
    return done.returncode == 0


def test_what_its_comment_says_can_be_typed() -> None:
    comment = re.findall(r"^#   (docker .*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    build, start = (shlex.split(line) for line in comment)
    assert build[:4] == ["docker", "build", "-t", "antiphon"] and build[-1] == "."
    assert {step.text for step in BUILD if step.name == "ARG"} == {build[5].partition("=")[0]}
    assert start == ["docker", "run", "--rm", "-p", "8000:8000", "antiphon"]
