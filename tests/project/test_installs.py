"""However the package is installed, a user's script runs, and type checkers know what it calls.

Environments are made in scratch folders. They see the packages of the one that runs the tests, but not its
antiphon; nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import compile_once
import pytest
from source_trees import ROOT, copy_sources, packaged

pytestmark = pytest.mark.slow

SCRIPT = '''\
"""A user's script."""

from typing_extensions import assert_type

from antiphon import Completion, Engine, Request, SamplingParams
from antiphon.codec.codec import Codec
from antiphon.kernels import backends

with Engine(max_num_seqs=1) as engine:
    completions = engine.generate([Request("What do you see?")], SamplingParams(max_tokens=3))
    assert_type(completions, list[Completion])
    assert_type(engine.codec, Codec | None)
    print(len(completions[0].text_ids), "cpp" in backends("argmax"))
'''
MISTAKE = "from antiphon import Request\n\nRequest(42)\n"


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints; the test fails with its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, check=False, cwd=cwd, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder with a user's script."""

    folder: Path
    user: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def files(self) -> set[Path]:
        installed = self.packages / "antiphon"
        paths = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
        return {path for path in paths if "__pycache__" not in path.parts}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path / "venv", tmp_path / "user")
    run(sys.executable, "-m", "venv", "--without-pip", made.folder, cwd=tmp_path)
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (made.packages / "seen.pth").write_text("\n".join(seen))
    made.user.mkdir()
    (made.user / "app.py").write_text(SCRIPT)
    (made.user / "mistake.py").write_text(MISTAKE)
    return made


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a build that compiles no source twice, and no CUDA."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    (folder / "nvcc").chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "CXX": compile_once.command(ROOT / "build" / "objects"),
    }


Install = Callable[..., Environment]


@pytest.fixture
def install(environment: Environment, tools: dict[str, str]) -> Install:
    def install(*what: str | Path) -> Environment:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment.python)
        options = ("install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
        run(*pip, *options, *what, cwd=environment.user, **tools)
        return environment

    return install


@pytest.fixture(scope="session")
def checker_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of mypy, which reads torch once."""
    return tmp_path_factory.mktemp("mypy")


def assert_runs(made: Environment) -> None:
    assert run(made.python, "app.py", cwd=made.user) == "3 True\n"


def assert_checks(made: Environment, cache: Path) -> None:
    """The script is free of errors, and not for want of types: a wrong argument is noticed."""
    problem = re.compile(r"^.*\b(app|mistake)\.py:(\d+).*error", re.MULTILINE)
    checkers: dict[str, tuple[str | Path, ...]] = {
        "mypy": ("--strict", "--cache-dir", cache, "--python-executable", made.python),
        "pyright": ("--pythonpath", made.python),
    }
    for name, options in checkers.items():
        command = (sys.executable, "-m", name, *options, "app.py", "mistake.py")
        with pytest.raises(AssertionError) as told:
            run(*command, cwd=made.user, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
        assert {match.groups() for match in problem.finditer(str(told.value))} == {("mistake", "3")}, (
            told.value
        )


def assert_whole(made: Environment) -> None:
    """Every file of the package as it is here, and the compiled module."""
    files = {path for path in made.files() if path.suffix != ".so"}
    assert files == packaged()
    installed = made.packages / "antiphon"
    package = ROOT / "src" / "antiphon"
    assert [p for p in files if (installed / p).read_bytes() != (package / p).read_bytes()] == []
    assert made.files() - files == {Path("kernels", f"_C{sysconfig.get_config_var('EXT_SUFFIX')}")}


def archive(target: Path) -> Path:
    """A zip as pip unpacks it: without links."""
    copy_sources(target / "antiphon-main", links=False)
    return Path(shutil.make_archive(str(target / "antiphon"), "zip", target, "antiphon-main"))


def clone(target: Path) -> Path:
    """A clone on a file system without links, or by somebody who has switched them off."""
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "core.symlinks=false")
    copy_sources(target / "origin")
    run("git", "init", "--quiet", cwd=target / "origin")
    run("git", "add", "--all", cwd=target / "origin")
    run(*git, "commit", "--quiet", "--no-verify", "--message=all", cwd=target / "origin")
    run(*git, "clone", "--quiet", "origin", "clone", cwd=target)
    assert (target / "clone" / "src" / "antiphon" / "kernels").is_file()
    return target / "clone"


def sdist(target: Path) -> Path:
    program = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    return target / run(sys.executable, "-c", program, target, cwd=copy_sources(target / "copy")).split()[-1]


@pytest.mark.long
@pytest.mark.parametrize("source", [sdist, copy_sources, archive, clone])
def test_an_installed_package(
    source: Callable[[Path], Path], install: Install, checker_cache: Path, tmp_path: Path
) -> None:
    """From a checkout, from what `make dist` makes, from a zip, and from a clone without links. The files are
    the same, so type checkers are asked about one of them."""
    made = install(source(tmp_path / "source"))
    assert_whole(made)
    assert_runs(made)
    if source is sdist:
        assert_checks(made, checker_cache)


@pytest.mark.long
def test_an_editable_checkout(install: Install, checker_cache: Path, tmp_path: Path) -> None:
    """New modules are there without another installation."""
    tree = copy_sources(tmp_path / "tree")
    made = install("--editable", tree)
    (tree / "runtime" / "sound" / "new.py").write_text("VALUE = 3\n")
    with (made.user / "app.py").open("a") as script:
        script.write("\nfrom antiphon.sound.new import VALUE\n\nassert VALUE == 3\n")
    assert_runs(made)
    assert_checks(made, checker_cache)


@pytest.mark.long
def test_an_editable_clone_without_links(install: Install, tmp_path: Path) -> None:
    """It runs, and is tested and linted; type checkers cannot follow how setuptools puts it together."""
    tree = clone(tmp_path)
    made = install("--editable", tree)
    assert_runs(made)
    run(made.python, "-m", "pytest", "--quiet", "tests/test_plain.py", cwd=tree)
    run(made.python, "-m", "ruff", "check", ".", cwd=tree)
    run(made.python, "-m", "ruff", "format", "--check", ".", cwd=tree)


@pytest.mark.long
def test_the_sdist(tmp_path: Path) -> None:
    """Each file once, and far below the 100 MB that PyPI takes."""
    path = sdist(tmp_path)
    with tarfile.open(path) as files:
        names = {str(Path(*Path(name).parts[1:])) for name in files.getnames()}
    assert path.stat().st_size < 60e6
    assert {"README.md", "pyproject.toml", "setup.py", "runtime/py.typed", "csrc/cpu/module.cpp"} <= names
    assert not any(name.startswith(("src/antiphon/", "recipes/tiny/kept")) for name in names)
