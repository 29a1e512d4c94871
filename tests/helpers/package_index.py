"""Packages from the package index, for tests that run a program of them in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["environment_with", "install"]

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def install(*arguments: str | Path, python: Path | None = None) -> None:
    """Run `pip install`; the test is skipped where no index can be reached. python: of the environment that
    gets the packages; None: this one."""
    aim = [] if python is None else ["--python", str(python)]
    command = [*PIP, *aim, "install", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        pytest.skip("no package index is to be reached")
    assert done.returncode == 0, done.stderr


def environment_with(folder: Path, *packages: str) -> Path:
    """A new virtual environment that holds nothing else. Returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install(*packages, python=python)
    return python
