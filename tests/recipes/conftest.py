"""What several tests of the recipe start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_once import made_once

MAKE = Path(__file__).parents[2] / "recipes" / "tiny" / "make.py"


@pytest.fixture(scope="session")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first stage, made by the recipe's command."""
    return made_once(tmp_path_factory, "skeleton", _make) / "skeleton"


def _make(work: Path) -> None:
    command = [sys.executable, str(MAKE), "run", "skeleton", "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
