"""What several tests of the recipe start from."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = Path(__file__).parents[2] / "recipes" / "tiny" / "make.py"


@pytest.fixture(scope="session")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first stage, made by the recipe's command, once for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    work = (base.parent if base.name.startswith("popen-") else base) / "skeleton"
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (work / "done").exists():
            command = [sys.executable, str(MAKE), "run", "skeleton", "--work", str(work)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (work / "done").touch()
    return work / "skeleton"
