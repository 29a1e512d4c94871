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


@pytest.mark.slow
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
def test_names_of_cosyvoice_and_halves_of_products_alone(fp16: Path) -> None:
    """Norms and softmax read and write float32."""
    model = onnx.load(fp16 / "flow.decoder.estimator.fp16.onnx")
    inputs = {"x": MEL, "mask": MASK, "mu": MEL, "t": ["batch"], "spks": ROW, "cond": MEL}
    assert shapes_of(model.graph.input) == inputs
    assert shapes_of(model.graph.output) == {"estimator_out": MEL}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Mish", "ReduceSum"):
            assert kinds[node.output[0]] == single, node.op_type
        if node.op_type in ("Conv", "ConvTranspose"):
            assert kinds[node.output[0]] == half, node.op_type


def test_wrong_arguments(source: FlowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind."""
    with pytest.raises(ConfigError, match="precision: expected fp32 or fp16 for flow, got 'int8'"):
        export_flow(source, tmp_path / "out", precision="int8")  # type: ignore[arg-type]
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
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("antiphon.export.flow.traced", fail)
    with pytest.raises(RuntimeError, match="no"):
        export_flow(source, tmp_path / "out")
    assert not list(tmp_path.iterdir())
