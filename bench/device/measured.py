"""Runs sections, each within its time and failing alone, and gathers what they tell."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from antiphon.bench.device.measuring import MARK

__all__ = ["Outcome", "measure"]

COMMAND = [sys.executable, "-m", "antiphon.bench.device.measuring"]

START_S = 60.0
"""To import torch and find the device, before the first section begins."""


@dataclass
class Outcome:
    status: str = "not run"
    """ok, failed, timed out, not run, or why it was left out"""
    took_s: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def measure(
    device: str,
    limits_s: dict[str, float],
    *,
    is_small: bool,
    deadline: float,
    progress: Callable[[str], None],
) -> dict[str, Outcome]:
    """Outcomes of measured sections, by name. limits_s: of each section to run, in order. deadline: on the
    clock of `time.perf_counter`, for all together."""
    outcomes = {name: Outcome() for name in limits_s}
    rest = list(limits_s)
    while rest and time.perf_counter() < deadline:
        done = _one_process(device, rest, limits_s, outcomes, is_small, deadline, progress)
        rest = rest[max(done, 1) :]  # a process that reached no section costs the first one
    return outcomes


def _one_process(
    device: str,
    names: Sequence[str],
    limits_s: dict[str, float],
    outcomes: dict[str, Outcome],
    is_small: bool,
    deadline: float,
    progress: Callable[[str], None],
) -> int:
    """How many of the sections came to an end, one way or the other."""
    size = "small" if is_small else "full"
    command = [*COMMAND, device, size, *names]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        num_done, current, began = 0, names[0], time.perf_counter()
        limit_s = START_S + limits_s[current]
        try:
            while num_done < len(names):
                left_s = min(began + limit_s, deadline) - time.perf_counter()
                try:
                    told = lines.get(timeout=max(0.0, left_s))
                except queue.Empty:
                    _end(outcomes[current], began, "timed out")
                    return num_done + 1
                if told is None:  # it has died
                    process.wait(10)
                    errors.seek(0)
                    tail = errors.read()[-2000:]
                    _end(outcomes[current], began, "failed", f"exit status {process.returncode}\n{tail}")
                    return num_done + 1
                event, name = told["event"], told["section"]
                if event == "begin":
                    progress(name)
                    current, began, limit_s = name, time.perf_counter(), limits_s[name]
                elif event == "figure":
                    outcomes.setdefault(name, Outcome("ok")).figures.append(told["figure"])
                else:
                    num_done += 1
                    _end(outcomes[name], began, "ok" if event == "end" else "failed", told.get("error", ""))
        finally:
            process.kill()
            process.wait()
    return num_done


def _read(stdout: IO[str], lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in stdout:
        if line.startswith(MARK):
            lines.put(json.loads(line.removeprefix(MARK)))
    lines.put(None)


def _end(outcome: Outcome, began: float, status: str, error: str = "") -> None:
    outcome.status, outcome.error = status, error
    outcome.took_s = round(time.perf_counter() - began, 1)
