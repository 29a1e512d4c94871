"""Every Triton kernel compiles for A100 (8.0) and H100 (9.0); no GPU is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_calls import CALLS, DTYPES
from made_once import made_once

pytest.importorskip("triton")

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = made_once(tmp_path_factory, "triton", _compile)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return results


def _compile(folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(HELPERS / "compile_triton.py")],
        env=os.environ | {"TRITON_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (folder / "results.json").write_text(run.stdout, "utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [str(dtype).removeprefix("torch.") for dtype in DTYPES])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.long
def test_compiles(compiled: dict[str, Any], call: str, dtype: str) -> None:
    kernels = compiled["calls"][f"{call} {dtype}"]
    assert kernels, "the call launched nothing"
    failed = {name: size for name, size in kernels.items() if not isinstance(size, int) or size == 0}
    assert not failed


@pytest.mark.slow
@pytest.mark.long
def test_no_kernel_is_left_out(compiled: dict[str, Any]) -> None:
    reached = {name.split(" ")[0] for kernels in compiled["calls"].values() for name in kernels}
    assert reached == set(compiled["kernels"])
