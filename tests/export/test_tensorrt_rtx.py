"""Engines of the flow for an A100, built by TensorRT for RTX without a GPU. None can be opened without one.
So what is looked at is the network that the builder was bound to, its types layer by layer, and the engine's
own code: the types of what its kernels read and write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_once import made_once
from onnx import helper, numpy_helper

from antiphon.cli import main
from antiphon.codec.exported import PRECISION
from antiphon.codec.tensorrt.library import installed
from antiphon.codec.tensorrt.manifest import Manifest
from antiphon.codec.tensorrt.profile import Profile
from antiphon.export.tensorrt.build import build_engine, builder_for

trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.long]

ONE = (Profile.parse("1:25:60x1:2:4"),)
TWO = (*ONE, Profile.parse("1:60:100x1:2:2"))
EXACT = ("NORMALIZATION", "SOFTMAX", "REDUCE", "ACTIVATION", "UNARY")
"""Layers that are float32 in any precision."""
FILES = {"fp32": "flow.onnx", "fp16": "flow.decoder.estimator.fp16.onnx", "int8": "flow.onnx"}


def buffers(code: bytes, kind: str) -> int:
    """How many times a kernel reads or writes a tensor of this type."""
    return code.count(f"__myln_{kind}* ".encode())


def quantized(model: onnx.ModelProto) -> int:
    """Gives products with weights in the file a static quantization, symmetric, of weights per channel; as
    QuantizeLinear and DequantizeLinear. Returns how many."""
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    count = 0
    for node in nodes:
        if node.op_type == "MatMul" and node.input[1] in weights:
            matrix = numpy_helper.to_array(weights[node.input[1]])
            scale = np.maximum(np.abs(matrix).max(axis=0), 1e-6) / 127
            name, count = f"q.{count}", count + 1
            graph.initializer.extend(
                numpy_helper.from_array(np.asarray(array), f"{name}.{what}")
                for what, array in (
                    ("weight", np.round(matrix / scale).astype(np.int8)),
                    ("scales", scale.astype(np.float32)),
                    ("zeros", np.zeros(len(scale), np.int8)),
                    ("scale", np.float32(8 / 127)),
                    ("zero", np.int8(0)),
                )
            )
            whole = [f"{name}.scale", f"{name}.zero"]
            row = [f"{name}.weight", f"{name}.scales", f"{name}.zeros"]
            graph.node.extend(
                [
                    helper.make_node("QuantizeLinear", [node.input[0], *whole], [f"{name}.q"]),
                    helper.make_node("DequantizeLinear", [f"{name}.q", *whole], [f"{name}.dq"]),
                    helper.make_node("DequantizeLinear", row, [f"{name}.matrix"], axis=1),
                ]
            )
            node.input[0], node.input[1] = f"{name}.dq", f"{name}.matrix"
        graph.node.append(node)
    return count


@pytest.fixture(scope="module")
def int8(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(made: Path) -> None:
        model = onnx.load(fp32 / "flow.onnx")
        assert quantized(model) > 20
        onnx.checker.check_model(model)
        about = {each.key: each.value for each in model.metadata_props}
        helper.set_model_props(model, about | {PRECISION: "int8"})
        onnx.save(model, made / "flow.onnx")

    return made_once(tmp_path_factory, "tensorrt_int8", make)


@pytest.mark.parametrize("precision", list(FILES))
def test_types_are_those_of_the_file(precision: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(precision)
    path = Path(shutil.copy(folder / FILES[precision], tmp_path / "flow.onnx"))
    profiles = TWO if precision == "fp32" else ONE
    library, target, is_here = builder_for("sm80")
    assert (library.name, target, is_here) == ("tensorrt_rtx", "sm80", False)
    manifest, is_new = build_engine(path, library, target, profiles=profiles)
    assert is_new
    assert Manifest.read(tmp_path / manifest.file) == manifest
    assert (manifest.precision, manifest.profiles) == (precision, profiles)
    assert len(manifest.memory_bytes) == len(profiles)
    assert all(1e5 < size < 1e8 for size in manifest.memory_bytes)

    types = manifest.types
    assert types is not None
    for kind in EXACT:
        assert list(types[kind]) == ["FLOAT"], kind
    products = types["CONVOLUTION"], types["DECONVOLUTION"], types["MATRIX_MULTIPLY"]
    num_times = sum(node.op_type == "Gemm" for node in onnx.load(path).graph.node)  # they embed time
    assert num_times > 0
    if precision == "fp16":
        assert [list(each) for each in products] == [["HALF"], ["HALF"], ["FLOAT", "HALF"]]
        assert types["MATRIX_MULTIPLY"]["FLOAT"] == num_times
    else:
        assert [list(each) for each in products] == [["FLOAT"]] * 3
    num_quantized = sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    assert bool(num_quantized) == (precision == "int8")
    assert types.get("QUANTIZE", {}) == ({"INT8": num_quantized} if num_quantized else {})

    code = (tmp_path / manifest.engine).read_bytes()
    assert code.startswith(b"vtrt")
    assert bytes(int(each) for each in library.version.split(".")) in code[:64]
    assert buffers(code, "float")
    assert bool(buffers(code, "half")) == (precision == "fp16")
    assert bool(buffers(code, "int8")) == (precision == "int8")
    assert (b"mask [profile 1]" in code) == (len(profiles) == 2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_polygraphy_finds_nothing_unsupported(
    precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By the parser of TensorRT for RTX, which is that of TensorRT 11. The solver's Loop is tried as well."""
    pytest.importorskip("polygraphy")
    folder: Path = request.getfixturevalue(precision)
    for name in (FILES[precision], "solver.onnx"):
        done = subprocess.run(
            [Path(sys.executable).with_name("polygraphy"), "inspect", "capability", folder / name],
            cwd=tmp_path,  # it leaves a folder
            env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Graph is fully supported by TensorRT" in done.stdout, done.stdout + done.stderr


def test_the_stand_in_has_no_names_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stand-in for TensorRT 11 offers, a real library of that generation has."""
    from fake_gpu import FakeGpu

    FakeGpu(monkeypatch, "11.4.0.12")
    fake = installed("tensorrt").module
    checked = 0
    for name, value in vars(fake).items():
        if not isinstance(value, type) or value.__module__ != fake.__name__:
            continue
        for member in vars(value):
            if not member.startswith("_"):
                assert hasattr(getattr(trt, name), member), f"{name}.{member}"
                checked += 1
    assert checked > 70


def test_an_engine_cannot_be_opened_without_a_gpu(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line; then a codec refuses it, in words."""
    out = tmp_path / "out"
    shutil.copytree(fp32, out)
    options = ("engine", str(out), "--target", "sm86", "--max", "16", "--batch", "2")
    monkeypatch.setattr(sys, "argv", ["antiphon", "export", *options])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert not end.value.code, shown.err
    assert ": tensorrt, fp32, sm86, tensorrt_rtx 1." in shown.out
    (manifest,) = (Manifest.read(path) for path in out.glob("*.json"))
    assert manifest is not None
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    assert trt.Runtime(log).deserialize_cuda_engine((out / manifest.engine).read_bytes()) is None
