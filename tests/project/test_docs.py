"""What the documents tell a reader to type works as it stands there."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_once import made_once

from antiphon.cli import main

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "runtime" / "assets"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What a reader has and this repository has not, and what stands in for it.
STAND_INS = {
    "path/to/stream-omni-8b": str(ASSETS / "tiny" / "stream_omni"),
    "path/to/CosyVoice-300M-25Hz": str(ASSETS / "tiny" / "cosyvoice"),
}
FUTURE = ("quant/",)
"""Rooms that the architecture names before they are there."""
OTHERS = ("livekit", "pipecat")
"""Packages whose blocks `tests/server/test_realtime_adapters.py` runs, where they are installed."""
EXPORT = "codec-onnx"
"""A folder that the documents make by one command and use by others."""
FILES = {"cat.jpg": "shapes.png", "shapes.png": "shapes.png", "question.wav": "question.wav"}


def blocks(language: str) -> list[tuple[str, str]]:
    """(place, text) of the fenced blocks in a language."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{document.name}:{line}", match[1]))
    return found


def commands() -> list[str]:
    """All command lines, each once, in the order in which they are read."""
    lines = [line for _, block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def planned(target: str) -> list[str]:
    """What `make TARGET` would run."""
    plan = subprocess.run(
        ["make", "--no-print-directory", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return plan.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds the files the documents speak of."""
    for name, stand_in in FILES.items():
        shutil.copy(ASSETS / "demo" / stand_in, tmp_path / name)
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_export(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Puts the exported codec into the working folder, as its command makes it: it takes a minute."""

    def put() -> None:
        def make(made: Path) -> None:
            run_antiphon(["export", "flow", "--out", str(made / EXPORT)], monkeypatch)

        (folder / EXPORT).symlink_to(made_once(tmp_path_factory, "docs_export", make) / EXPORT)

    return put


def run_antiphon(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the program, with nothing to read."""
    arguments = [STAND_INS.get(argument, argument) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)


LONG = ("antiphon bench serve --compare", "antiphon bench formats")
"""Commands that take ten seconds or more, and run the same code as others"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=[pytest.mark.long] if EXPORT in each or each.startswith(LONG) else [])
        for each in commands()
    ],
)
def test_commands_run(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, with_export: Callable[[], None]
) -> None:
    """`make` targets have to be there; what they run is tried without the environment they make for it."""
    if EXPORT in command:
        with_export()
        if command == f"antiphon export flow --out {EXPORT}":
            return
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):  # of the environment
        del words[0]
    program, *arguments = words
    if program == "make":
        assert planned(arguments[0])
    else:
        assert Path(program).name == "antiphon", f"do not know how to try {command!r}"
        run_antiphon(arguments, monkeypatch)


@pytest.mark.slow
def test_the_demo_speaks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(planned("demo")[-1])
    assert program == ".venv/bin/antiphon"
    run_antiphon(arguments, monkeypatch)
    assert (folder / "reply.wav").read_bytes()[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("place", "block"),
    [
        pytest.param(place, block, marks=[pytest.mark.long] if EXPORT in block else [])
        for place, block in blocks("python")
        if not any(f"from {name}" in block for name in OTHERS)
    ],
    ids=lambda value: value.partition("\n")[0],
)
def test_python_blocks_run(
    place: str,
    block: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    with_export: Callable[[], None],
) -> None:
    if EXPORT in block:
        with_export()
    for name, stand_in in STAND_INS.items():
        block = block.replace(name, stand_in)
    exec(compile(block, place, "exec"), {"__name__": "__main__"})
    if "print" in block:
        assert capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\(([^)#]+)", document.read_text())
        broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
        assert not broken, document.name


def test_paths_exist() -> None:
    """Files and folders that are named in backquotes; what a reader is to make is called scale_rows."""
    names = {
        path.name
        for folder in ("runtime", "kernels", "csrc", "bench")
        for path in (ROOT / folder).rglob("*.py")
    }
    for document in DOCUMENTS:
        named = re.findall(r"`([\w./-]+(?:\.(?:py|pyi|h|cpp|cu|toml|txt)|/))`", document.read_text())
        missing = [
            name
            for name in named
            if "scale_rows" not in name
            and name not in FUTURE
            and not (ROOT / name).exists()
            and ("/" in name or (name.endswith(".py") and name not in names))
        ]
        assert not missing, document.name


def test_every_target_of_the_readme_is_in_the_makefile() -> None:
    for target in re.findall(r"`make (\w+)`", (ROOT / "README.md").read_text()):
        assert planned(target)
