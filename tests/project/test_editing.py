"""What editors and commits are told agrees with what `make lint` checks."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_editors_know_the_line_lengths() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string("[top]\n" + (ROOT / ".editorconfig").read_text(encoding="utf-8"))
    assert settings["*"]["max_line_length"] == str(project()["tool"]["ruff"]["line-length"])
    style = yaml.safe_load((ROOT / ".clang-format").read_text(encoding="utf-8"))
    assert settings["*.{cpp,h,cu,cuh}"]["max_line_length"] == str(style["ColumnLimit"])


def test_editors_search_each_file_once() -> None:
    settings = json.loads((ROOT / ".vscode" / "settings.json").read_text(encoding="utf-8"))
    assert settings["search.exclude"]["src"], "it holds links to the folders beside it"
    assert settings["python.analysis.extraPaths"] == project()["tool"]["pyright"]["extraPaths"]


@pytest.mark.slow
def test_the_hooks_are_valid_and_their_tools_are_there() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    tools = [hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"$(BIN)/{tool}" in makefile for tool in tools)
    assert all((Path(sys.executable).parent / tool).exists() for tool in tools)
