"""Building engines: from files of a few operators, by a stand-in for TensorRT in a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_gpu import VERSIONS, FakeGpu
from onnx import TensorProto, helper
from tensorrt_operators import check_operators

from antiphon.cli import main
from antiphon.codec.exported import FLOW, KIND, PRECISION, WEIGHTS
from antiphon.codec.tensorrt.manifest import Manifest, manifests
from antiphon.codec.tensorrt.profile import LONG, PROFILES, SHORT, Profile, Span
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.onnx_file import OPSET
from antiphon.export.tensorrt.build import BuildFailed, _started, build_engine, builder_for
from antiphon.export.tensorrt.memory import activation_bytes
from antiphon.export.tensorrt.ranges import Ranges, measured
from antiphon.export.tries import flow_tries

SMALL = (Profile.parse("1:8:16x1:2:4"), Profile.parse("1:16:32x1:1:2"))


def small_model(scale: float = 1.0, kind: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """velocity = the product of x and a matrix, in another type"""
    size: Any = ["batch", 80, "frames"]
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("MatMul", ["matrix", "narrow"], ["product"]),
        helper.make_node("Cast", ["product"], ["velocity"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("velocity", TensorProto.FLOAT, size)],
        [helper.make_tensor("matrix", kind, (80, 80), (scale * np.eye(80)).ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, {KIND: FLOW, PRECISION: "fp16", WEIGHTS: "ab" * 32})
    return model


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(small_model(), tmp_path / "flow.onnx")
    return tmp_path / "flow.onnx"


def built(path: Path, **options: Any) -> tuple[Manifest, bool]:
    library, target, is_here = builder_for("sm80")
    return build_engine(path, library, target, is_here=is_here, profiles=SMALL, **options)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_once(version: str, gpu: FakeGpu, path: Path) -> None:
    gpu.install(version)
    told: list[str] = []
    said: list[str] = []
    manifest, is_new = built(path, report=told.append, say=said.append)
    assert is_new
    assert (manifest.kind, manifest.precision, manifest.target) == ("flow", "fp16", "sm80")
    assert (manifest.library, manifest.version) == ("tensorrt", version)
    assert (manifest.inputs, manifest.outputs) == (("x",), ("velocity",))
    assert manifest.engine.startswith(f"flow.sm80.tensorrt-{version}.")
    assert manifest.types == {"CAST": {"FLOAT": 1, "HALF": 1}, "MATRIX_MULTIPLY": {"HALF": 1}}
    assert manifest.memory_bytes == (64 * 4 * 80 * 16, 64 * 2 * 80 * 32)
    assert any("Building engine, 0 of 2" in each for each in told)
    assert said[0].startswith("profile 1:8:16x1:2:4: about 0 MB for activations")
    assert "2 float16 tensors up to 1" in said[2]  # 10 to 20
    about = json.loads((path.parent / manifest.engine).read_bytes().partition(b"\n")[0])
    assert about["is_strongly_typed"]
    assert not about["has_tf32"]
    assert about["verbosity"] == "DETAILED"
    assert about["profiles"] == [
        {"x": [[1, 80, 1], [2, 80, 8], [4, 80, 16]]},
        {"x": [[1, 80, 1], [1, 80, 16], [2, 80, 32]]},
    ]
    assert manifests(path.parent) == [manifest]
    assert built(path) == (manifest, False)

    # What has changed since has another name. The timing cache serves again.
    (path.parent / manifest.engine).write_bytes(b"cut off")
    assert built(path)[1]
    (path.parent / manifest.engine).unlink()
    assert built(path)[1]
    (cache,) = path.parent.glob("*.timing")
    assert cache.read_bytes() == b"8.0 3"
    cache.write_bytes(b"9.0 7")  # of another GPU
    onnx.save(small_model(scale=2.0), path)
    other, is_new = built(path)
    assert is_new
    assert other.engine != manifest.engine
    assert cache.read_bytes() == b"8.0 1"
    assert [each.engine for each in manifests(path.parent)] == [other.engine, manifest.engine]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message", "line"),
    [
        ("crash", r"crashed \(SIGABRT\): terminate called after", "INFO: Compiling for 8.0"),
        ("refuse", "it returned no engine", "ERROR: Error Code 10: Could not find any implementation"),
        ("parse", r"it does not take the ONNX file: In node 3 .* UNSUPPORTED_NODE", None),
    ],
)
def test_a_builder_that_fails(how: str, message: str, line: str | None, gpu: FakeGpu, path: Path) -> None:
    """Its log is kept, and nothing is left behind."""
    gpu.fail(how)
    expected = f"^tensorrt 10.16.1.11, building flow.onnx for sm80: .*{message}"
    with pytest.raises(BuildFailed, match=expected) as caught:
        built(path)
    assert line is None or line in caught.value.log
    assert not any("a great deal" in each for each in caught.value.log)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_the_command_line(
    gpu: FakeGpu, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["antiphon", "export", "engine", str(path.parent), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    gpu.fail("refuse")
    assert ended("--max", "32", "--batch", "2") == 1
    shown = capsys.readouterr().err
    assert "ERROR: Error Code 10" in shown
    assert "it returned no engine" in shown.splitlines()[-1]
    gpu.fail("")
    assert ended("--max", "32", "--batch", "2") == 0  # the target is this machine's
    (manifest,) = manifests(path.parent)
    assert manifest.profiles == (Profile.parse("1:32:32x1:2:2"),)
    out = capsys.readouterr().out
    assert f"{manifest.engine}: tensorrt, fp16, sm80, tensorrt 10.16.1.11" in out
    assert "profile 1:32:32x1:2:2: 0 MB for activations" in out
    profiles = ("--profile", "1:32:32x1:2:2")
    assert ended("--target", "sm80", *profiles) == 0
    assert "was there" in capsys.readouterr().out
    for wrong, message in (
        ((*profiles, "--min", "3"), "--min: expected either it or --profile, got both"),
        (
            ("--profile", "1:32:32xx"),
            "profile: expected sizes and rows, each least:usual:most, such as 1:256",
        ),
        (
            ("--max", "4", "--min", "5"),
            "profile: sizes: expected 1 <= least <= usual <= most <= 65536, got 5, 4",
        ),
        (("--target", "a100"), "target: expected a compute capability such as sm80, got 'a100'"),
        (("--target", "sm90", *profiles), "got sm90: tensorrt 10.16.1.11 builds for the GPU of this machine"),
    ):
        assert ended(*wrong) == 2
        assert message in capsys.readouterr().err


def test_what_can_be_built_for(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builder_for(None)[1:] == ("sm80", True)
    gpu.replace((9, 0))
    assert builder_for(None)[1:] == ("sm90", True)
    gpu.install(None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        ConfigError, match=r"tensorrt, which is not installed: pip .*\[tensorrt\].*_rtx, which is"
    ):
        builder_for("sm90")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"target: expected a compute capability, such as sm80, since there is"
    ):
        builder_for(None)


def test_files_that_no_engine_is_built_from(gpu: FakeGpu, path: Path) -> None:
    def refused(model: onnx.ModelProto, message: str) -> None:
        onnx.save(model, path)
        with pytest.raises(CheckpointError, match=message):
            built(path)

    model = small_model()
    del model.metadata_props[0]
    refused(model, "expected what `antiphon export` wrote, found no antiphon.kind")
    model = small_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    model.graph.input.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch"]))
    refused(model, r"first axis is the same and has a name, found \('batch',\) of t")
    model = small_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    refused(model, r"first axis is the same and has a name, found \(1, 80, 'frames'\) of x")
    helper.set_model_props(model := small_model(), {KIND: "flower", PRECISION: "fp16", WEIGHTS: "ab" * 32})
    refused(model, "antiphon.kind: expected one of encoder, flow, .* found 'flower'")
    helper.set_model_props(model := small_model(), {KIND: "hift", PRECISION: "fp32", WEIGHTS: "ab" * 32})
    refused(model, "expected a value 'mel' in the graph, found none; export it again")
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="expected an ONNX network"):
        built(path)
    with pytest.raises(CheckpointError, match="no such file"):
        built(path.with_name("other.onnx"))


def test_ranges_of_float16_are_measured(tmp_path: Path) -> None:
    def ranges(model: onnx.ModelProto) -> Ranges:
        tries = flow_tries({"x": (1, 80, 32)}, {})
        return measured(model, tries, "32 frames", tmp_path / "flow.onnx")

    found = ranges(small_model(scale=100.0))
    assert found.size == "32 frames"
    assert found.tensor == "product"
    assert 800 < found.largest < 4000  # a hundred times 8 to 40
    with pytest.raises(ConfigError, match=r"product: expected numbers of up to 32752 in float16 .* got [45]"):
        ranges(small_model(scale=3000.0))
    with pytest.raises(ConfigError, match=r"product: expected numbers .* got nan"):
        ranges(small_model(scale=np.nan))
    with pytest.raises(ConfigError, match="expected finite results at 32 frames, got NaN or infinity"):
        ranges(small_model(scale=np.nan, kind=TensorProto.FLOAT))
    brain = ranges(small_model(scale=1e6, kind=TensorProto.BFLOAT16))
    assert str(brain) == "not measured: bfloat16 ends where float32 does"
    wide = ranges(small_model(scale=1e6, kind=TensorProto.FLOAT))
    assert str(wide) == "no float16 tensors, all results finite at 32 frames"


def test_memory_is_reckoned_from_what_is_alive() -> None:
    """At most a narrow x and the product, or the product and the velocity: 2 + 4 bytes each."""
    for profile in SMALL:
        count = profile.rows.most * profile.frames.most
        assert activation_bytes(small_model(), ("frames", "batch"), profile) == 80 * count * (2 + 4)


def test_profiles() -> None:
    assert PROFILES == (SHORT, LONG)
    for profile in PROFILES:
        assert Profile.parse(str(profile)) == profile
    assert Profile.options(PROFILES) == "--profile 1:256:320x1:2:32 --profile 1:1024:3000x1:2:2"
    for wrong in (
        "1:2:3x1:2:3 ",
        "1:2:3x",
        "x".join(5 * ["1:2:3"]),
        "0:1:1x1:1:1",
        "1:3:2x1:1:1",
        "1:1:99999x1:1:1",
        "1:1:1x1:1:2000",
        3,
    ):
        with pytest.raises(ConfigError, match=r"^profile: "):
            Profile.parse(wrong)
    with pytest.raises(ConfigError, match="rows: expected 1 <= least"):
        Profile((Span(1, 2, 3),), Span(2, 1, 3))
    both = Profile.parse("1:2:3x4:5:6x7:8:9")
    axes = ("units", "frames", "batch")
    assert both.shapes(axes, ("batch", 1, "units")) == [(7, 1, 1), (8, 1, 2), (9, 1, 3)]
    assert both.holds(axes, ("batch", 1, "units"), (7, 1, 3))
    for found in ((7, 1, 4), (7, 2, 3), (6, 1, 3), (7, 1)):
        assert not both.holds(axes, ("batch", 1, "units"), found)
    assert Profile.parse("1:5:10").spans(("tiles",)) == {"tiles": Span(1, 5, 10)}
    with pytest.raises(
        ConfigError, match="profile: expected frames x batch, each least:usual:most, got '1:2:3x4"
    ):
        both.check_axes(("frames", "batch"))


@pytest.mark.slow
def test_manifests_that_are_wrong(gpu: FakeGpu, path: Path, tmp_path: Path) -> None:
    manifest, _ = built(path)
    file = path.parent / manifest.file
    content = json.loads(file.read_text())
    shutil.copy(file, path.parent / "other.json")
    with pytest.raises(CheckpointError, match=r"other\.json: expected the name flow\.sm80\.tensorrt-10"):
        manifests(path.parent)
    (path.parent / "other.json").write_text('{"format": "figures"}')  # of something else
    assert len(manifests(path.parent)) == 1
    for name, value, message in (
        ("profiles", ["1:2"], "expected sizes and rows"),
        ("profiles", ["1:2:3"], "axes: expected those of shapes and profiles"),
        ("axes", ["units", "batch"], "axes: expected those of shapes and profiles"),
        ("shapes", {"y": ["batch", 80, "frames"]}, "shapes: expected those of x"),
        ("shapes", {"x": ["batch", 80.5, "frames"]}, "shapes: expected names and numbers"),
        ("shapes", 3, "expected what `antiphon export` wrote"),
        ("profiles", [], "expected at least one, found none"),
        ("format", "antiphon-engine-1", "format: expected 'antiphon-engine-2', found 'antiphon-engine-1'"),
        ("target", 80, "target: expected text, found 80"),
        ("odd", 1, "unexpected keyword argument 'odd'"),
        ("target", "../sm80", "expected the name"),
    ):
        file.write_text(json.dumps(content | {name: value}))
        with pytest.raises(CheckpointError, match=message):
            manifests(path.parent)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.long)])
def test_operators_are_those_that_tensorrt_10_documents(
    precision: str, request: pytest.FixtureRequest
) -> None:
    for path in request.getfixturevalue(precision).glob("*.onnx"):
        check_operators(onnx.load(path))


@pytest.mark.slow
def test_a_builder_ends_with_the_process_that_asked(
    gpu: FakeGpu, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would otherwise go on for minutes, for nobody."""
    gpu.fail("hang")
    order = {
        "library": "tensorrt",
        "onnx": str(path),
        "engine": str(tmp_path / "engine"),
        "target": "sm80",
        "is_here": True,
        "timing_cache": str(tmp_path / "cache"),
        "profiles": [{"x": [[1, 80, 1], [2, 80, 8], [4, 80, 16]]}],
    }
    with tempfile.TemporaryFile() as output:
        process, events = _started(order, output)
        try:
            assert any(event["kind"] == "phase" for event in events)  # it is at work
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 1
        finally:
            process.kill()
            process.wait()
