"""The recipe's commands, and the stages that its documents speak of."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon_tiny.stages import Stage, all_stages

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny"
STAGES = {"skeleton", "tower", "language", "units", "flow", "vocoder", "codec"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPE / "make.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def stages() -> set[str]:
    listed = make("list")
    assert listed.returncode == 0, listed.stderr
    return {line.split()[0] for line in listed.stdout.splitlines()}


def test_documents_name_stages_that_are_there() -> None:
    there = stages()
    assert there >= STAGES
    for document in (RECIPE / "README.md", RECIPE / "antiphon_tiny" / "speech" / "README.md"):
        text = document.read_text(encoding="utf-8")
        rows = re.findall(r"^\| (`[\w-]+`(?:, `[\w-]+`)*) \| .* \| .* \|$", text, re.MULTILINE)
        named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
        commands = re.findall(r"make\.py run ((?:[\w-]+ )*[\w-]+)", text)
        named |= {name for command in commands for name in command.split()}
        sets_of_voices = {"heart", "disguised", "slt", "rms", "awb", "kal", "kal16", "slt_hts", "kal_diphone"}
        missing = named - there - sets_of_voices - {"espeak", "test_ked", "test_joe"}
        assert not missing, document


@pytest.mark.parametrize("stage", all_stages().values(), ids=lambda stage: stage.name)
def test_every_stage_has_its_function(stage: Stage) -> None:
    """Read, not imported: many need packages that are there only where the model is made."""
    module, name = stage.function.split(":")
    source = (RECIPE / "antiphon_tiny" / module.replace(".", "/")).with_suffix(".py").read_text()
    [found] = [f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef) and f.name == name]
    assert [ast.unparse(argument.annotation or ast.Constant(None)) for argument in found.args.args] == ["Run"]


@pytest.mark.slow
@pytest.mark.long
def test_the_first_stage_runs(skeleton: Path) -> None:
    assert (skeleton / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["tongue", "all"])
def test_an_unknown_stage_is_named(name: str, tmp_path: Path) -> None:
    done = make("run", name, "--work", str(tmp_path))
    assert done.returncode == 2
    assert repr(name) in done.stderr
    assert "skeleton" in done.stderr


@pytest.mark.slow
def test_a_stage_that_has_not_run_is_not_kept(tmp_path: Path) -> None:
    done = make("keep", "tower", "--work", str(tmp_path))
    assert done.returncode == 2
    assert "expected the state of a training" in " ".join(done.stderr.replace("│", " ").split())
