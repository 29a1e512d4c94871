"""Rooms import what stands below them, see docs/architecture.md; the contracts are in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "bench", "evaluation", "export", "csrc")


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the package below `tree`."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache"],
        check=False,
        cwd=tree.parent,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A tree to add imports to."""
    python = shutil.ignore_patterns("tiny", "demo", "configs", "*.so", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=python)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path / "src"


def test_contracts_are_kept() -> None:
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("sched/scheduler.py", "from antiphon.engine.engine import Engine"),
        ("kernels/linear.py", "def late() -> None:\n    import antiphon.config"),
        ("model/runner.py", "if TYPE_CHECKING:\n    from antiphon.aio.session import Session"),
        ("sched/plan.py", "import numpy"),
        ("codec/noise.py", "def late() -> None:\n    import antiphon.codec.codec"),
    ],
)
def test_contracts_notice(copied: Path, module: str, line: str) -> None:
    """An upward import is found wherever it hides, and so is a cycle within a room."""
    with (copied / "antiphon" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_the_scheduler_loads_plain_python_alone() -> None:
    program = """
import sys, antiphon.sched.scheduler
print({"numpy", "tokenizers", "torch", "PIL"} & set(sys.modules))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout == "set()\n"


def test_the_tree_holds_all_that_is_installed() -> None:
    """A link in src/antiphon for each file and folder of the runtime, and one for each other folder."""
    links = {path.name: path.readlink() for path in (ROOT / "src" / "antiphon").iterdir()}
    names = {p.name for p in (ROOT / "runtime").iterdir() if p.suffix != ".so" and p.name != "__pycache__"}
    expected = {name: Path("../../runtime") / name for name in names}
    expected |= {name: Path("../..") / name for name in FOLDERS}
    assert links == expected
