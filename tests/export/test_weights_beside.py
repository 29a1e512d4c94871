"""`--weights beside`: one file more, read from this folder alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_parts import WIDTH, TinySource, tiny_part

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.checkpoint.onnx_graph import check_graph, data_path
from antiphon.codec.exported import DATA, open_network, sha256
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.folder import export_parts
from antiphon.export.onnx_file import write_model

PART = tiny_part("first")
X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    import torch

    source = TinySource(torch.full((WIDTH,), 3.0), {})
    (written,) = export_parts([PART], lambda _: source, tmp_path / "out", weights="beside")
    assert written.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    return written.path


def opened(path: Path) -> OnnxNetwork:
    return open_network(path, "first", f"{3:064.3f}", [[None, WIDTH]], 1)


def test_the_files(exported: Path) -> None:
    data = data_path(exported)
    assert sorted(path.name for path in exported.parent.iterdir()) == ["first.onnx", "first.onnx.data"]
    assert data.stat().st_size == 4 * WIDTH
    assert exported.stat().st_size < 4 * WIDTH
    model = onnx.load(exported, load_external_data=False)
    (tensor,) = model.graph.initializer
    assert {entry.key: entry.value for entry in tensor.external_data}["location"] == "first.onnx.data"
    assert {prop.key: prop.value for prop in model.metadata_props}[DATA] == sha256(data)
    np.testing.assert_array_equal(opened(exported).run(X), 3 * X)
    # A folder may be moved; the files may not be told apart from others of that name by their place.
    moved = exported.parent.rename(exported.parent.with_name("moved"))
    np.testing.assert_array_equal(opened(moved / exported.name).run(X), 3 * X)


def test_a_codec_has_its_weights_inside(exported: Path) -> None:
    """What comes from elsewhere, such as a speech tokenizer, may not read a second file."""
    with pytest.raises(CheckpointError, match="expected all tensors in this file, found one in another"):
        OnnxNetwork(exported)
    with pytest.raises(CheckpointError, match="expected all tensors in this file"):
        check_graph(exported)


def entry(key: str, value: str) -> Callable[[onnx.TensorProto, Path], None]:
    def change(tensor: onnx.TensorProto, folder: Path) -> None:
        for each in tensor.external_data:
            if each.key == key:
                each.value = value

    return change


def with_entry(key: str, value: str) -> Callable[[onnx.TensorProto, Path], None]:
    def change(tensor: onnx.TensorProto, folder: Path) -> None:
        tensor.external_data.add(key=key, value=value)

    return change


def without_location(tensor: onnx.TensorProto, folder: Path) -> None:
    del tensor.external_data[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (entry("location", "other.data"), "expected tensors here or in first.onnx.data, found one in 'other"),
        (entry("location", "../secret"), "found one in '../secret'"),
        (entry("location", "/etc/passwd"), "found one in '/etc/passwd'"),
        (entry("location", "./first.onnx.data"), "found one in './first.onnx.data'"),
        (entry("location", "sub/../first.onnx.data"), "found one in 'sub/"),
        (entry("location", ""), "found one in ''"),
        (entry("location", "*/_ORT_MEM_ADDR_/*"), "found one in"),
        (without_location, "found one in ''"),
        (with_entry("location", "/etc/passwd"), "found one in '/etc/passwd'"),
        (with_entry("basepath", "/etc"), "expected location or offset or length or checksum of a tensor"),
        (entry("offset", "4"), "expected first.onnx.data with at least 2004 bytes, found 2000"),
        (entry("offset", "-4"), "expected the offset of a tensor in first.onnx.data, found '-4'"),
        (entry("length", "9" * 30), "expected the length of a tensor in first.onnx.data, found"),
        (entry("length", "²"), "expected the length"),
    ],
)
def test_places_outside_are_refused(
    exported: Path, change: Callable[[onnx.TensorProto, Path], None], message: str
) -> None:
    """Before onnxruntime sees the file."""
    (exported.parent.parent / "secret").write_bytes(bytes(4 * WIDTH))
    model = onnx.load(exported, load_external_data=False)
    change(model.graph.initializer[0], exported.parent)
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError) as caught:
        opened(exported)
    assert message in str(caught.value)
    assert str(exported) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_of_an_attribute_is_looked_at_too(exported: Path) -> None:
    model = onnx.load(exported, load_external_data=False)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(model.graph.initializer[0])
    tensor.external_data[0].value = "../secret"
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"found one in '\.\./secret'"):
        opened(exported)


def test_data_that_is_not_what_was_written(exported: Path, tmp_path: Path) -> None:
    data = data_path(exported)
    whole = data.read_bytes()
    data.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="with at least 2000 bytes, found 1996"):
        opened(exported)
    data.write_bytes(b"\1" + whole[1:])
    with pytest.raises(
        CheckpointError, match=r"data: expected the weights of first.onnx, found those of another"
    ):
        opened(exported)
    data.unlink()
    with pytest.raises(CheckpointError, match="with at least 2000 bytes, found 0"):
        opened(exported)
    data.mkdir()
    with pytest.raises(CheckpointError, match=r"first\.onnx\.data: .*expected the weights of first\.onnx"):
        opened(exported)
    data.rmdir()
    os.mkfifo(data)
    with pytest.raises(CheckpointError, match=r"first\.onnx\.data: .*expected the weights of first\.onnx"):
        opened(exported)


def test_links(exported: Path, tmp_path: Path) -> None:
    """A link within the folder is a file of the folder; one that leads out of it is not."""
    data = data_path(exported)
    shutil.move(data, exported.parent / "kept")
    data.symlink_to("kept")
    np.testing.assert_array_equal(opened(exported).run(X), 3 * X)
    shutil.move(exported.parent / "kept", tmp_path / "kept")
    data.unlink()
    data.symlink_to("../kept")
    with pytest.raises(CheckpointError, match="expected a file of this folder, found a link to another one"):
        opened(exported)
    data.unlink()
    data.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="a link to nowhere"):
        opened(exported)


def test_a_network_of_2_gb_needs_its_weights_beside(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exported)
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 2000)
    with pytest.raises(
        ConfigError, match=r"big\.onnx: weights: expected beside for a network of 2 GB or more"
    ):
        write_model(model, tmp_path / "big.onnx", {})
    assert write_model(model, tmp_path / "big.onnx", {}, weights="beside") > 4 * WIDTH
    np.testing.assert_array_equal(OnnxNetwork(tmp_path / "big.onnx", may_lie_beside=True).run(X), 3 * X)
