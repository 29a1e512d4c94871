"""What is installed is whole and starts nothing by itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from source_trees import ROOT, packaged


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that a wheel holds, without the compiled module."""
    target = tmp_path_factory.mktemp("build")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return target / "antiphon"


def test_a_wheel_holds_every_file(built: Path) -> None:
    """Python, stubs, assets and kernel sources: nothing that lies in a package folder stays behind."""
    expected = packaged()
    found = {path.relative_to(built) for path in built.rglob("*") if path.is_file()}
    assert expected - found == set()
    assert {Path("py.typed"), Path("kernels/_C.pyi"), Path("assets/demo/question.wav")} <= found


@pytest.mark.slow
def test_importing_starts_nothing() -> None:
    """No module starts threads, initialises CUDA or loads what only some of its users need."""
    program = """
import importlib, pkgutil, sys, threading
import antiphon
names = {module.name for module in pkgutil.walk_packages(antiphon.__path__, "antiphon.")}
assert {"antiphon.kernels.linear", "antiphon.bench.engine", "antiphon.export"} <= names
for name in names:
    # which are there to load triton, and a subclass of Ray's
    if not name.startswith(("antiphon.kernels.triton.", "antiphon.scale.router")):
        importlib.import_module(name)
heavy = set("bitsandbytes flash_attn flashinfer onnx onnxruntime ray soundfile tensorrt triton vllm".split())
print("loaded:", sorted(heavy & set(sys.modules)))
print("threads:", threading.active_count())
print("cuda:", sys.modules["torch"].cuda.is_initialized())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd="/"
    )
    assert done.stdout == "loaded: []\nthreads: 1\ncuda: False\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        """
from antiphon import Engine, Request
Engine().generate(Request("Hi", ("text", "audio")))
""",
        """
import sys
from antiphon.cli import main
sys.argv = ["antiphon", "generate", "--text", "Hi"]
try:
    main()
except SystemExit:
    pass
""",
    ],
    ids=["engine", "command"],
)
def test_a_reply_loads_nothing_that_it_does_not_need(program: str) -> None:
    """PyTorch's compiler and sympy take longer to import than all else that an engine loads; the others are
    for other kinds of input, or for servers."""
    unneeded = (
        "fastapi matplotlib onnx rich.progress scipy soundfile sympy torch._dynamo torch._inductor "
        "torchvision transformers triton uvicorn"
    )
    check = f"\nimport sys\nprint('loaded:', sorted(set('{unneeded}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program + check], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_stub_agrees_with_the_compiled_module() -> None:
    """Names and arguments, in order."""
    from antiphon.kernels import _C

    stub = ast.parse((ROOT / "kernels" / "_C.pyi").read_text())
    assert _declared(stub.body) == _compiled(vars(_C))


def _declared(body: list[ast.stmt]) -> dict[str, Any]:
    functions = {
        node.name: [a.arg for a in node.args.args] for node in body if isinstance(node, ast.FunctionDef)
    }
    return functions | {node.name: _declared(node.body) for node in body if isinstance(node, ast.ClassDef)}


def _compiled(names: Mapping[str, Any]) -> dict[str, Any]:
    """pybind11 writes `name(argument: type, ...) -> type` on the first line of each docstring."""
    public = {name: value for name, value in names.items() if name == "__init__" or not name.startswith("_")}
    return {
        name: _compiled(vars(value))
        if isinstance(value, type)
        else re.findall(r"[(,] ?(\w+):", value.__doc__.splitlines()[0])
        for name, value in public.items()
    }


def test_the_console_script_is_there() -> None:
    (script,) = entry_points(group="console_scripts", name="antiphon")
    assert callable(script.load())
