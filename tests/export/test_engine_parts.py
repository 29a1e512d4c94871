"""Engines of parts other than the flow: their sizes, ids, what an engine leaves out, and the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fake_gpu import FakeGpu
from onnx import TensorProto, helper, numpy_helper
from tiny_parts import tiny_part

from antiphon.cli import main
from antiphon.cli.export_engine import PartName
from antiphon.codec.exported import KIND, PRECISION, WEIGHTS
from antiphon.codec.tensorrt.manifest import Manifest, manifests
from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.folder import NUM_IDS
from antiphon.export.onnx_file import OPSET
from antiphon.export.parts import PARTS
from antiphon.export.tensorrt.build import build_engine, builder_for, rest_path
from antiphon.export.tensorrt.memory import activation_bytes
from antiphon.export.tensorrt.running import NotHeld, engines_that_run
from antiphon.export.tokenizer import PRODUCER

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
VOCABULARY, LABELS, WAVES = 11, 7, 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


def info(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def saved(path: Path, graph: onnx.GraphProto, about: dict[str, str]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, {PRECISION: "fp32", WEIGHTS: "ab" * 32, **about})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def listening(path: Path, table: np.ndarray[Any, Any], **about: str) -> Path:
    """Labels and log_probs of ids by a table (ids, labels)"""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["raw"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["raw", "column"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["labels"], axis=2, keepdims=0),
        helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "listening",
        [info("ids", INT64, "batch", "tokens"), info("mask", FLOAT, "batch", "tokens")],
        [info("labels", INT64, "batch", "tokens"), info("log_probs", FLOAT, "batch", "tokens", LABELS)],
        [
            numpy_helper.from_array(table.astype(np.float32), "table"),
            numpy_helper.from_array(np.array([2]), "last"),
        ],
    )
    return saved(path, graph, {KIND: "listening", NUM_IDS: json.dumps({"ids": len(table)}), **about})


def vocoder(path: Path) -> Path:
    """A caricature: samples are the mel's first band times the phases, which add up in float64"""
    nodes = [
        helper.make_node("Slice", ["mel", "zero", "one", "one"], ["band"]),
        helper.make_node("Squeeze", ["band", "one"], ["row"]),
        helper.make_node("Cast", ["row"], ["pitch"], to=DOUBLE),
        helper.make_node("Unsqueeze", ["pitch", "two"], ["column"]),
        helper.make_node("Unsqueeze", ["cycles", "one"], ["before"]),
        helper.make_node("CumSum", ["column", "axis"], ["sums"]),
        helper.make_node("Add", ["sums", "before"], ["cycles_at_ends"]),
        helper.make_node("Sub", ["cycles_at_ends", "column"], ["exact"]),
        helper.make_node("Cast", ["exact"], ["begins"], to=FLOAT),
        helper.make_node("Concat", ["column", "column"], ["pair"], axis=2),
        helper.make_node("Cast", ["pair"], ["steps"], to=FLOAT),
        helper.make_node("Cast", ["pitch"], ["voiced"], to=FLOAT),
        helper.make_node("ReduceSum", ["steps", "two"], ["step"], keepdims=0),
        helper.make_node("ReduceSum", ["begins", "two"], ["begin"], keepdims=0),
        helper.make_node("ReduceSum", ["noise", "both"], ["hiss"], keepdims=0),
        helper.make_node("ReduceSum", ["phase", "one"], ["angle"], keepdims=1),
        helper.make_node("Squeeze", ["mask", "one"], ["valid"]),
        helper.make_node("Sum", ["step", "begin", "hiss", "angle", "row"], ["loud"]),
        helper.make_node("Mul", ["loud", "voiced"], ["some"]),
        helper.make_node("Mul", ["some", "valid"], ["samples"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hift",
        [
            info("mel", FLOAT, "batch", 80, "frames"),
            info("mask", FLOAT, "batch", 1, "frames"),
            info("noise", FLOAT, "batch", "frames", 256, WAVES),
            info("phase", FLOAT, "batch", WAVES),
            info("start", INT64, "batch"),
            info("cycles", DOUBLE, "batch", WAVES),
        ],
        [
            info("samples", FLOAT, "batch", "samples"),
            info("cycles_at_ends", DOUBLE, "batch", "frames", WAVES),
        ],
        [
            numpy_helper.from_array(np.array(value), name)
            for name, value in (("zero", [0]), ("one", [1]), ("two", [2]), ("both", [2, 3]), ("axis", 1))
        ],
        value_info=[
            info("steps", FLOAT, "batch", "frames", 2),
            info("begins", FLOAT, "batch", "frames", WAVES),
            info("voiced", FLOAT, "batch", "frames"),
        ],
    )
    return saved(path, graph, {KIND: "hift"})


def built(path: Path, *profiles: str, said: list[str] | None = None) -> Manifest:
    library, target, is_here = builder_for("sm80")
    own = [Profile.parse(each) for each in profiles]
    told = [] if said is None else said
    manifest, is_new = build_engine(path, library, target, is_here=is_here, profiles=own, say=told.append)
    assert is_new
    return manifest


@pytest.mark.slow
def test_labels_without_their_likelihoods(gpu: FakeGpu, tmp_path: Path) -> None:
    """Whole numbers go in and come out; of the two outputs, the engine has the small one."""
    table = np.random.default_rng(0).standard_normal((VOCABULARY, LABELS))
    path = listening(tmp_path / "listening.onnx", table)
    said: list[str] = []
    manifest = built(path, "1:4:6x1:1:2", said=said)
    assert "listening.onnx: the engine leaves out log_probs, which are as large as the vocabulary" in said[0]
    assert said[-1] == "listening.onnx: no float16 tensors, all results finite at 6 tokens"
    assert (manifest.inputs, manifest.outputs) == (("ids", "mask"), ("labels",))
    assert manifest.axes == ("tokens", "batch")
    assert manifest.shapes == {"ids": ("batch", "tokens"), "mask": ("batch", "tokens")}
    assert manifests(tmp_path) == [manifest]
    assert not rest_path(path).exists()
    about = json.loads((tmp_path / manifest.engine).read_bytes().partition(b"\n")[0])
    assert about["profiles"] == [{name: [[1, 1], [1, 4], [2, 6]] for name in ("ids", "mask")}]
    (run,) = engines_that_run(tmp_path, "listening")
    ids = torch.tensor([[3, 1, 2], [0, 10, 4]])
    (labels,) = run(ids, torch.ones(2, 3))
    assert labels.dtype == torch.int64
    assert labels.tolist() == table[ids.numpy()].argmax(-1).tolist()
    with pytest.raises(NotHeld):
        run(torch.zeros(1, 7, dtype=torch.int64), torch.ones(1, 7))
    with pytest.raises(AssertionError, match=r"ids: torch\.int32 is read as another type"):
        run(ids.int(), torch.ones(2, 3))


@pytest.mark.slow
def test_an_engine_of_sound_is_given_the_phases(gpu: FakeGpu, tmp_path: Path) -> None:
    """Its inputs are what a second file makes of the whole's, and the two together are the whole."""
    path = vocoder(tmp_path / "hift.onnx")
    said: list[str] = []
    manifest = built(path, "1:4:9x1:1:2", said=said)
    assert "the engine leaves out pitch and phases, which are float64" in said[0]
    assert manifest.inputs == ("mel", "mask", "noise", "phase", "steps", "begins", "voiced")
    assert manifest.outputs == ("samples",)
    generator = torch.Generator().manual_seed(0)
    whole = {
        "mel": torch.randn(2, 80, 5, generator=generator),
        "mask": torch.ones(2, 1, 5),
        "noise": torch.randn(2, 5, 256, WAVES, generator=generator),
        "phase": torch.randn(2, WAVES, generator=generator),
        "start": torch.zeros(2, dtype=torch.int64),
        "cycles": torch.rand(2, WAVES, generator=generator, dtype=torch.float64),
    }
    given = {name: value.numpy() for name, value in whole.items()}
    expected, ends = onnxruntime.InferenceSession(path).run(None, given)
    rest = onnxruntime.InferenceSession(rest_path(path))
    names = [value.name for value in rest.get_inputs()]
    assert names == ["mel", "cycles"]  # what they are made of
    *values, own_ends = rest.run(None, {name: given[name] for name in names})
    assert np.array_equal(np.asarray(own_ends), np.asarray(ends))
    (run,) = engines_that_run(tmp_path, "hift")
    inputs = [whole[name] for name in ("mel", "mask", "noise", "phase")]
    (samples,) = run(*inputs, *map(torch.from_numpy, values))
    np.testing.assert_array_equal(samples.numpy(), expected)

    rest_path(path).unlink()
    library, target, is_here = builder_for("sm80")
    again = build_engine(path, library, target, is_here=is_here, profiles=manifest.profiles)
    assert again == (manifest, False)
    assert rest_path(path).is_file()


def test_numbers_that_are_lost_behind_a_label(gpu: FakeGpu, tmp_path: Path) -> None:
    """A label is a whole number whatever it was made of."""
    path = listening(tmp_path / "listening.onnx", np.full((VOCABULARY, LABELS), np.nan))
    with pytest.raises(ConfigError, match="logits: expected finite numbers at 6 tokens, got nan"):
        built(path, "1:4:6x1:1:2")
    listening(path, np.zeros((VOCABULARY, LABELS)), **{NUM_IDS: "[3]"})
    with pytest.raises(CheckpointError, match=r"antiphon.num_ids: expected numbers by name"):
        built(path, "1:4:6x1:1:2")
    with pytest.raises(
        ConfigError, match="profile: expected tokens x batch, each least:usual:most, got '1:1:2'"
    ):
        built(path, "1:1:2")
    listening(path, np.zeros((VOCABULARY, LABELS)), **{PRODUCER: "pytorch 2.1"})
    with pytest.raises(ConfigError, match=r"listening\.onnx: expected a tokenizer that recipes/tiny wrote"):
        built(path)
    assert list(tmp_path.iterdir()) == [path]


def test_memory_of_a_graph_that_reckons_its_shapes() -> None:
    """As traced ones do: a shape is taken apart, doubled and put together again."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["count"], start=1),
        helper.make_node("Squeeze", ["count"], ["size"]),
        helper.make_node("Neg", ["size"], ["least"]),
        helper.make_node("Range", ["least", "size", "step"], ["places"]),
        helper.make_node("Cast", ["places"], ["far"], to=FLOAT),
        helper.make_node("Mul", ["size", "step"], ["same"]),
        helper.make_node("Reshape", ["same", "rows_too"], ["last"]),
        helper.make_node("Concat", ["rows", "last", "last_too"], ["shape"], axis=0),
        helper.make_node("Expand", ["cube", "shape"], ["large"]),
        helper.make_node("ReduceSum", ["large", "axis"], ["y"], keepdims=0),
        helper.make_node("ReduceSum", ["far"], ["z"], keepdims=0),
        helper.make_node("Add", ["y", "z"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", FLOAT, "batch", "frames")],
        [info("out", FLOAT, "batch", "frames")],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (
                ("step", 1),
                ("rows_too", [1]),
                ("last_too", [5]),
                ("cube", np.ones((1, 1, 1), np.float32)),
                ("axis", [2]),
            )
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    frames, rows = 3000, 2
    sizes = frames * rows * (5 + 1) * 4, 2 * frames * (8 + 4)
    found = activation_bytes(model, ("frames", "batch"), Profile.parse(f"1:1:{frames}x1:1:{rows}"))
    assert found == sizes[0] + sizes[1] // 3  # with the places as float32


def ended(patch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    patch.setattr(sys, "argv", ["antiphon", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.slow
def test_the_commands(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export all` builds an engine of each part that can have one, `export engine` of one part or of all."""
    assert {each.value for each in PartName} == {*(part.kind for part in PARTS), "all"}
    for name in ("codec", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scale").write_text("3")
    parts = (
        tiny_part("hift"),
        tiny_part("tokenizer", no_engine="it is another's"),
        tiny_part("vision", "model"),
    )
    monkeypatch.setattr("antiphon.export.parts.PARTS", parts)
    out = tmp_path / "out"
    where = ("--codec", tmp_path / "codec", "--model", tmp_path / "model")
    assert ended(monkeypatch, "all", *where, "--format", "tensorrt", "--target", "sm80", "--out", out) == 0
    assert {each.kind for each in manifests(out)} == {"hift", "vision"}
    assert {path.name for path in out.glob("*.onnx")} == {"hift.onnx", "tokenizer.onnx", "vision.onnx"}
    shown = capsys.readouterr().out
    assert "tokenizer: no engine: it is another's" in shown
    assert shown.count("profile 1:2:3: 0 MB for activations") == 2

    assert ended(monkeypatch, "engine", out, "--part", "all", "--batch", "2") == 2
    message = "--batch: expected a single part, whose sizes it is of, got --part all"
    assert message in capsys.readouterr().err
    assert ended(monkeypatch, "engine", out, "--part", "vision", "--batch", "2") == 0
    assert "profile 1:2:2: 0 MB for activations" in capsys.readouterr().out
    for arguments, status, message in (
        (("engine", out, "--part", "vision"), 0, "was there"),
        (
            ("engine", out),
            1,
            "expected the file of flow, found those of: hift, tokenizer, vision; see --part",
        ),
        (
            ("engine", tmp_path / "no"),
            1,
            "expected a folder that `antiphon export flow` wrote, found no folder",
        ),
        (
            ("engine", tmp_path / "no", "--part", "all"),
            1,
            "expected files that `antiphon export` writes, found",
        ),
        (
            ("engine", out, "--part", "vision", "--max", "3"),
            2,
            "--max: expected --batch for vision, which has no",
        ),
        (
            ("tokenizer", "--codec", tmp_path / "codec", "--format", "tensorrt", "--out", tmp_path / "other"),
            2,
            "--format: expected onnx for this tokenizer, got tensorrt: it is another's",
        ),
        (
            ("hift", "--codec", tmp_path / "codec", "--max", "3", "--out", tmp_path / "other"),
            2,
            "--max: expected --format tensorrt with it, got onnx",
        ),
    ):
        assert ended(monkeypatch, *arguments) == status, arguments
        shown = " ".join("".join(capsys.readouterr()).split())
        assert message in shown, (arguments, shown)
    assert not (tmp_path / "other").exists()


def test_sizes_of_the_encoder_are_asked_for_as_profiles(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("encoder", "--format", "tensorrt", "--max", "3", "--out", tmp_path / "out")
    assert ended(monkeypatch, *options) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert (
        "--max: expected --profile for encoder, whose units and frames vary: 1:75:100x1:256:345x1:1:16"
        in shown
    )
    assert not (tmp_path / "out").exists()
