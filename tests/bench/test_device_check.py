"""`python -m antiphon.bench.device`: a dry run, and that each section fails alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from antiphon.bench.device import measured, tested
from antiphon.bench.device.__main__ import app
from antiphon.bench.device.check import LIMITS_S
from antiphon.bench.device.measured import Outcome, measure
from antiphon.bench.device.measuring import MEASURED

STAND_IN = """
import json, os, sys, time
def tell(name, event, **found):
    print("@@ " + json.dumps({"section": name, "event": event, **found}), flush=True)
print("a library says hello")
for name in sys.argv[3:]:
    tell(name, "begin")
    tell(name, "figure", figure={"name": "one", "value": 1.0, "unit": "us"})
    if name == "hangs":
        time.sleep(60)
    if name == "dies":
        sys.stderr.write("illegal memory access")
        os._exit(9)
    tell(name, "fault" if name == "fails" else "end", **({"error": "wrong"} if name == "fails" else {}))
"""


def dry_run(only: str, path: Path) -> dict[str, dict[str, object]]:
    arguments = ["--small", "--device", "cpu", "--json", str(path), *(["--only", only] if only else [])]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())
    assert {"title", "date", "command", "machine", "sections"} == set(record)
    assert record["machine"]["torch"]
    assert {name: found["status"] for name, found in record["sections"].items()} == dict.fromkeys(
        record["sections"], "ok"
    )
    sections: dict[str, dict[str, object]] = record["sections"]
    return sections


def test_a_dry_run_of_kernels(tmp_path: Path) -> None:
    sections = dry_run("attention,heads,soft_embedding,linear,capture", tmp_path / "check.json")
    assert list(sections) == [name for name in MEASURED if name in sections], "in their own order"
    assert all(found["figures"] for name, found in sections.items() if name != "capture")


@pytest.mark.slow
@pytest.mark.long
def test_a_dry_run_of_all_that_is_measured(tmp_path: Path) -> None:
    sections = dry_run("", tmp_path / "check.json")
    assert list(sections) == list(MEASURED)
    names = [str(figure["name"]) for found in sections.values() for figure in found["figures"]]  # type: ignore[attr-defined]
    for part in ("unit step", "chunk 1", "first audio", "argmax among the units"):
        assert any(part in name for name in names), part


def test_each_section_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is ended after its time; one that ends the process takes none of the others along."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(measured, "COMMAND", [sys.executable, str(stand_in)])
    names = ["well", "dies", "fails", "hangs", "last"]
    limits_s = {name: 0.5 if name == "hangs" else 60.0 for name in names}
    begun: list[str] = []
    found = measure("cpu", limits_s, is_small=True, deadline=time.perf_counter() + 60, progress=begun.append)
    assert begun == names
    assert [found[name].status for name in names] == ["ok", "failed", "failed", "timed out", "ok"]
    assert all(len(outcome.figures) == 1 for outcome in found.values()), "what it told before is kept"
    assert "illegal memory access" in found["dies"].error
    assert found["fails"].error == "wrong"


def test_what_there_is_no_time_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(measured, "COMMAND", [sys.executable, str(stand_in)])
    limits_s = {"hangs": 60.0, "well": 60.0}
    found = measure("cpu", limits_s, is_small=True, deadline=time.perf_counter() + 1, progress=print)
    assert [found[name].status for name in limits_s] == ["timed out", "not run"]


def test_every_section_has_its_time() -> None:
    assert list(LIMITS_S) == [*MEASURED, *tested.TESTED]


def test_tests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_some.py").write_text("def test_a(): pass\ndef test_b(): pass\ndef test_c(): assert 0\n")
    monkeypatch.setattr(tested, "ROOT", tmp_path)
    monkeypatch.setattr(tested, "MAX_PROCESSES", 1)
    monkeypatch.setitem(tested.TESTED, "tests", ["test_some.py"])
    found = tested.run_tests("tests", 60.0)
    assert found.status == "failed"
    assert {figure["name"]: figure["value"] for figure in found.figures} == {"failed": 1, "passed": 2}
    assert "test_c" in found.error
    monkeypatch.setitem(tested.TESTED, "tests", ["nowhere"])
    assert tested.run_tests("tests", 60.0) == Outcome("left out: these are not here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "heads,tails"], "expected some of"), (["--device", "cpu"], "expected a GPU")],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output


BARE = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    names = {
        "av", "fastapi", "httpx", "matplotlib", "openai", "pillow_heif", "prometheus_client", "pydantic",
        "requests", "scipy", "sounddevice", "soundfile", "soxr", "starlette", "transformers", "uvicorn",
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import antiphon.bench.device.check, antiphon.bench.device.measuring, antiphon.cli.app
from antiphon import Engine, Request, SamplingParams, Units

with Engine(device="cpu") as engine:
    request = Request(Units(range(20)), modalities=("text", "audio"))
    (done,) = engine.generate(request, SamplingParams(max_units=10, ignore_eos=True))
    assert done.error is None and len(done.audio), done
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_bare_image_of_a_gpu_machine_is_enough() -> None:
    """It has torch, Triton and what reads models, and nothing that reads or plays sound."""
    done = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
