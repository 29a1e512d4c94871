"""What is written: files with any batch and any number of frames, that say where they come from."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from antiphon.codec.exported import WEIGHTS, fingerprint
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export import onnx_file
from antiphon.export.folder import export_flow
from antiphon.export.sources import FlowSource, read_flow

MEL, MASK, ROW = ["batch", 80, "frames"], ["batch", 1, "frames"], ["batch", 80]


def shapes_of(values: Any) -> dict[str, list[str | int]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_the_files(fp32: Path, source: FlowSource, folder: Path) -> None:
    assert sorted(path.name for path in fp32.iterdir()) == ["flow.onnx", "solver.onnx"]
    model = onnx.load(fp32 / "flow.onnx")
    inputs = {"x": MEL, "mask": MASK, "mu": MEL, "t": ["batch"], "speaker": ROW, "prompt": MEL}
    assert shapes_of(model.graph.input) == inputs
    assert shapes_of(model.graph.output) == {"velocity": MEL}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert about["antiphon.kind"] == "flow"
    assert about["antiphon.precision"] == "fp32"
    assert about[WEIGHTS] == fingerprint(source.estimator.params, source.estimator)
    for name in ("cosyvoice.yaml", "flow.pt"):
        assert about[f"antiphon.sha256.{name}"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    # Two products and a softmax for each of the transformers.
    found = Counter(node.op_type for node in model.graph.node)
    params = source.estimator.params
    assert found["Softmax"] == params.n_blocks * (params.num_mid_blocks + 4)
    assert "Attention" not in found
    assert shapes_of(onnx.load(fp32 / "solver.onnx").graph.input) == {
        "noise": MEL,
        "mask": MASK,
        "mu": MEL,
        "speaker": ROW,
        "prompt": MEL,
    }


@pytest.mark.slow
@pytest.mark.long
def test_the_files_of_encoder_and_hift(front_and_back: Path, folder: Path) -> None:
    names = ["encoder.onnx", "encoder.onnx.data", "hift.onnx", "hift.onnx.data"]
    assert sorted(path.name for path in front_and_back.iterdir()) == names
    encoder, hift = (onnx.load(front_and_back / name) for name in names[::2])
    assert shapes_of(encoder.graph.input) == {
        "units": ["batch", "units"],
        "unit_mask": ["batch", 1, "units"],
        "left": ["batch", "frames"],
        "weight": ["batch", "frames"],
        "mask": MASK,
        "embedding": ["batch", 192],
    }
    assert shapes_of(encoder.graph.output) == {"mu": MEL, "speaker": ROW}
    assert shapes_of(hift.graph.input) == {
        "mel": MEL,
        "mask": MASK,
        "noise": ["batch", "frames", 256, 9],
        "phase": ["batch", 9],
        "start": ["batch"],
        "cycles": ["batch", 9],
    }
    ends = ["batch", "frames", 9]
    assert shapes_of(hift.graph.output) == {"samples": ["batch", "samples"], "cycles_at_ends": ends}
    for model, source in ((encoder, "flow.pt"), (hift, "hift.pt")):
        about = {prop.key: prop.value for prop in model.metadata_props}
        assert (
            about[f"antiphon.sha256.{source}"] == hashlib.sha256((folder / source).read_bytes()).hexdigest()
        )
        # Old operators that every runtime has: no transforms, no attention, no loops.
        found = {node.op_type for node in model.graph.node}
        assert not found & {
            "STFT",
            "DFT",
            "Attention",
            "Loop",
            "If",
            "Scan",
            "RandomNormalLike",
            "GridSample",
        }
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions


def test_names_of_cosyvoice(fp16: Path) -> None:
    model = onnx.load(fp16 / "flow.decoder.estimator.fp16.onnx")
    inputs = {"x": MEL, "mask": MASK, "mu": MEL, "t": ["batch"], "spks": ROW, "cond": MEL}
    assert shapes_of(model.graph.input) == inputs
    assert shapes_of(model.graph.output) == {"estimator_out": MEL}


def test_bfloat16_says_in_which_opset_convolutions_take_it(source: FlowSource, tmp_path: Path) -> None:
    export_flow(source, tmp_path / "out", precision="bf16", solver=True)
    for name in ("flow.onnx", "solver.onnx"):
        model = onnx.load(tmp_path / "out" / name)
        assert [each.version for each in model.opset_import] == [22]
        assert {prop.key: prop.value for prop in model.metadata_props}["antiphon.opset"] == "22"
        onnx.checker.check_model(model, full_check=True)


def test_wrong_arguments(source: FlowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind."""
    with pytest.raises(
        ConfigError, match="precision: expected fp32 or fp16 or bf16 or int8 for flow, got 'int4'"
    ):
        export_flow(source, tmp_path / "out", precision="int4")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="expected the name of a new folder; this exists"):
        export_flow(source, tmp_path)
    with pytest.raises(OSError, match="there is no folder"):
        export_flow(source, tmp_path / "no" / "out")
    with pytest.raises(CheckpointError, match="expected a CosyVoice folder, found no folder"):
        read_flow(tmp_path / "no")
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package, which is not installed: pip install"):
        export_flow(source, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(
    source: FlowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("antiphon.export.flow.estimator_model", fail)
    with pytest.raises(RuntimeError, match="no"):
        export_flow(source, tmp_path / "out")
    assert not list(tmp_path.iterdir())
