"""requirements/lock.txt: what `make` installs is whole, goes together, and can be had by everybody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "lock.txt"
HELD = ROOT / "requirements" / "held.txt"
EXTRAS = ("dev", "gpu", "mic", "recipe")
PYTHONS = ("3.10", "3.11", "3.12")
MACHINES = ("x86_64", "aarch64")

places = [pytest.param(python, machine) for python in PYTHONS for machine in MACHINES]


def entries(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def environment(python: str, machine: str, extra: str = "") -> dict[str, str]:
    """What markers are evaluated with."""
    return {
        "extra": extra,
        "implementation_name": "cpython",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.1",
        "python_version": python,
        "sys_platform": "linux",
    }


def pins(python: str, machine: str) -> dict[str, str]:
    """Exact versions by name."""
    found: dict[str, str] = {}
    for entry in entries(LOCK):
        (specifier,) = entry.specifier
        if entry.marker is None or entry.marker.evaluate(environment(python, machine)):
            assert entry.name not in found, f"{entry.name} is pinned twice for Python {python}"
            found[entry.name] = specifier.version
    return found


def test_pins_are_public_releases() -> None:
    """Nothing of one machine or index: no addresses, no paths, no build tags such as "+cpu". And no extras:
    pip takes none in constraints."""
    for entry in entries(LOCK):
        (specifier,) = entry.specifier
        assert specifier.operator == "==" and entry.url is None and not entry.extras, str(entry)
        assert set(specifier.version) <= set("0123456789.post"), str(entry)
        assert entry.name == canonicalize_name(entry.name)


@pytest.mark.parametrize(("python", "machine"), places)
def test_every_dependency_is_pinned_within_its_range(python: str, machine: str) -> None:
    """At run time, for tests, for development and for the recipe."""
    found = pins(python, machine)
    ours = [requirement for line in requires("antiphon") or [] for requirement in [Requirement(line)]]
    wanted = [
        requirement
        for requirement in ours
        if requirement.name != "antiphon"
        and any(
            requirement.marker is None or requirement.marker.evaluate(environment(python, machine, extra))
            for extra in ("", "test", "bench", "onnx", "talk", *EXTRAS)
        )
    ]
    assert {requirement.name for requirement in wanted} > {"torch", "numpy", "pytest", "ruff", "triton", "uv"}
    for requirement in wanted:
        pin = found.get(canonicalize_name(requirement.name))
        assert pin is not None, f"requirements/lock.txt has no pin for {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement}: pinned to {pin}"


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_held_back_is_held(python: str) -> None:
    found = pins(python, "x86_64")
    for entry in entries(HELD):
        assert entry.specifier.contains(found[entry.name]), str(entry)


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.mark.index
@pytest.mark.parametrize(("python", "machine"), places)
def test_everybody_can_install_the_pins(python: str, machine: str, uv_cache: Path) -> None:
    """The lock once pinned another Triton than the public torch of the other pin takes: `make demo` ended at
    its first step wherever pip was offered no torch of the machine's own.

    Resolved as uv finds it in the public index for people who have set nothing: no folders of wheels, no
    other index, no constraints of the machine. How the index is reached (proxies, certificates) stays.
    """
    foreign = ("PIP_", "UV_", "XDG_", "VIRTUAL_ENV", "CONDA_")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command: list[str | Path] = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--no-config", "--cache-dir", uv_cache / "cache"),
        *("--python-version", python, "--python-platform", f"{machine}-manylinux_2_28"),
        *("--only-binary", ":all:", "--no-header", "--no-annotate", "--strip-extras"),
        *(option for extra in EXTRAS for option in ("--extra", extra)),
        *("--constraint", LOCK, ROOT / "pyproject.toml"),
    ]
    done = subprocess.run(
        command,
        check=False,
        cwd=uv_cache,
        env=settings | {"HOME": str(uv_cache)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (
        f"nothing to install for Python {python} on {machine}, or no index:\n{done.stderr}"
    )
    assert dict(line.split("==") for line in done.stdout.splitlines()) == pins(python, machine)
