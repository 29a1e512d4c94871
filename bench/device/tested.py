"""Sections that run tests of the checkout on the device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from antiphon.bench.device.measured import Outcome
from antiphon.kernels.registry import backends

__all__ = ["TESTED", "run_tests"]

ROOT = Path(__file__).resolve().parents[2]
PYTEST = (sys.executable, "-c", "import sys; del sys.path[0]; import pytest; sys.exit(pytest.console_main())")
"""As the program does, which need not be on the path: without the working folder among the modules"""
MAX_PROCESSES = 8
NOTHING_TO_DO = 5
"""pytest's exit status where no test was chosen"""

TESTED = {
    "tests": ["tests/kernels", "-k", "triton or cuda"],
    "goldens": ["tests/engine/test_golden.py", "--on-gpu"],
    "sanitizer": ["tests/kernels/test_ctc_collapse.py", "-k", "cuda", "-m", "not slow"],
}
"""By the section's name, what pytest is told"""


def run_tests(name: str, limit_s: float) -> Outcome:
    """How many passed and failed. The sanitizer runs them under compute-sanitizer, where that is found."""
    arguments = TESTED[name]
    if not (ROOT / arguments[0]).exists():
        return Outcome("left out: these are not here")
    command = [*PYTEST, "--quiet", "--tb=short", "-p", "no:cacheprovider", *arguments]
    if name == "sanitizer":
        tool = shutil.which("compute-sanitizer") or shutil.which(
            "compute-sanitizer", path="/usr/local/cuda/bin"
        )
        if tool is None:
            return Outcome("left out: there is no compute-sanitizer")
        if "cuda" not in backends("ctc_collapse"):
            return Outcome("left out: the CUDA kernels were not built, or do not run here")
        command = [tool, "--error-exitcode", "9", "--target-processes", "all", *command]
    elif name == "tests":  # an engine, which the goldens make, takes most of the memory
        processes = min(MAX_PROCESSES, os.cpu_count() or 1)
        command += ["--numprocesses", str(processes), "--dist", "worksteal"] if processes > 1 else []
    return _run(command, limit_s)


def _run(command: list[str], limit_s: float) -> Outcome:
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, status = process.communicate(timeout=limit_s)[0], ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # pytest's own processes as well
            output, status = process.communicate()[0], "timed out"
    took_s = time.perf_counter() - began
    if not status:
        status = "ok" if process.returncode in (0, NOTHING_TO_DO) else "failed"
    counts = dict.fromkeys(re.findall(r"(\d+) (passed|failed|errors?|skipped)", output))
    figures = [{"name": kind, "value": int(count), "unit": "tests"} for count, kind in counts]
    return Outcome(status, round(took_s, 1), figures, "" if status == "ok" else output[-4000:])
