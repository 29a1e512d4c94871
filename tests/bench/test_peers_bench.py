"""`antiphon bench peers`: what is written for other engines, and what its table says. Its worker runs with
our own engine and with one that stands in for others."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer import BadParameter

from antiphon.bench.busy import busy_processes
from antiphon.bench.peers.command import run
from antiphon.bench.peers.measuring import OURS, ROWS, bench_peers
from antiphon.bench.peers.process import WorkerProcess
from antiphon.bench.peers.weights import Written, write_weights
from antiphon.errors import AntiphonError

OTHER = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import worker

class Other:
    about = "an engine that counts"

    def __init__(self, model, llm, rows, threads, most):
        assert (llm / "config.json").is_file() and Path.cwd() == llm
        assert rows == ["float32"] and threads == 1

    def generate(self, row, prompts, new):
        if len(prompts) > 1:
            raise RuntimeError("one at a time")
        return worker.Generated([[sum(p) + i for i in range(new)] for p in prompts], None)

worker.PROGRAMS["transformers"] = Other
worker.main()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_weights("97m", tmp_path_factory.mktemp("peers"))


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The Python of an environment with an engine of its own"""
    from antiphon.bench.peers import process

    script = tmp_path / "other.py"
    script.write_text(OTHER.format(folder=str(process.WORKER.parent)))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "{script}"\n')
    python.chmod(0o755)
    return str(python)


def test_both_forms_hold_the_same_llm(written: Written) -> None:
    whole, llm = load_file(written.model / "model.safetensors"), load_file(written.llm / "model.safetensors")
    assert llm.keys() < whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in llm.items())
    assert sum(tensor.numel() for tensor in llm.values()) == written.num_parameters > 40e6


@pytest.mark.slow
@pytest.mark.long
def test_rows_stand_beside_ours(written: Written, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.bench.peers.measuring.ROWS", (ROWS[0], ROWS[2], ROWS[8]))
    told: list[str] = []
    runs = bench_peers(
        written,
        {OURS: sys.executable, "transformers": other},
        batch_sizes=[1],
        prompt_chars=9,
        tokens=3,
        threads=1,
        repeats=2,
        say=told.append,
    )
    assert [one.name for one in runs] == ["Antiphon float32", "transformers float32", "Antiphon int8"]
    ours, counted, int8 = runs
    assert ours.same_ids == ours.num_compared == 2 and counted.same_ids == 0
    assert ours.ours_beside == int8.ours_beside == 1 and counted.ours_beside < 1
    assert ours.after_first_per_s is not None and counted.after_first_per_s is None
    assert all(one.least_tokens_per_s <= one.tokens_per_s <= one.most_tokens_per_s for one in runs)
    assert "loaded: an engine that counts" in told


def test_a_worker_answers_and_says_what_went_wrong(written: Written, other: str) -> None:
    to_load = {"rows": ["float32"], "model": str(written.model), "llm": str(written.llm), "most": 2}
    with WorkerProcess("transformers", other, 1, **to_load) as worker:
        found = worker.generate("float32", [[1, 2]], 3)
        assert found["ids"] == [[3, 4, 5]] and found["others"] >= 0
        with pytest.raises(AntiphonError, match="transformers: RuntimeError: one at a time"):
            worker.generate("float32", [[1], [2]], 3)
        assert worker.generate("float32", [[7]], 1)["ids"] == [[7]]


def test_an_engine_that_is_not_there_is_named(written: Written) -> None:
    to_load = {"rows": ["F32"], "model": str(written.model), "llm": str(written.llm), "most": 1}
    with pytest.raises(AntiphonError, match=r"llama\.cpp: ModuleNotFoundError: No module named 'llama_cpp'"):
        WorkerProcess("llama.cpp", sys.executable, 1, **to_load)
    with pytest.raises(AntiphonError, match=r"vLLM: /nowhere/python: No such file"):
        WorkerProcess("vLLM", "/nowhere/python", 1, **to_load)


@pytest.mark.parametrize(
    "choice", ["llama.cpp", "llama=/usr/bin/python3", "vLLM=/nowhere/python", "vLLM=/tmp"]
)
def test_pythons_that_are_none_are_refused(choice: str) -> None:
    with pytest.raises(BadParameter, match="expected"):
        run([choice])


def children() -> list[int]:
    """Processes that this one has started, and that have not ended"""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append(int(stat.parent.name))
    return found


def test_busy_processes_end_with_their_block() -> None:
    before = set(children())
    with busy_processes(2):
        started = set(children()) - before
    assert len(started) == 2 and not started & set(children())
