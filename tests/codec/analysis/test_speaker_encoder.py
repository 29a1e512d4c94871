from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_speaker import embedding_of, save_network, save_speaker_network

from antiphon.codec.analysis.fbank import fbank
from antiphon.codec.analysis.speaker_encoder import SpeakerEncoder
from antiphon.errors import CheckpointError

SAMPLES = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)


def test_network_reads_the_fbank(tmp_path: Path) -> None:
    encoder = SpeakerEncoder(save_speaker_network(tmp_path / "net.onnx"), 192)
    found = encoder.embed(SAMPLES)
    assert (found.shape, found.dtype.name) == ((192,), "float32")
    np.testing.assert_allclose(found, embedding_of(fbank(SAMPLES)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bands", [80, "bands"])
@pytest.mark.parametrize("dim", [1, 20])
def test_other_sizes(tmp_path: Path, dim: int, bands: int | str) -> None:
    encoder = SpeakerEncoder(save_speaker_network(tmp_path / "net.onnx", dim, bands=bands), dim, 1)
    assert encoder.embed(SAMPLES[:400]).shape == (dim,)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x09\x12\x05"])
def test_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"net\.onnx: expected an ONNX network"):
        SpeakerEncoder(path, 192)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"net\.onnx: no such file, expected an ONNX network"):
        SpeakerEncoder(tmp_path / "net.onnx", 192)


def test_other_network_is_refused(tmp_path: Path) -> None:
    path = save_network(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["a", "b"], ["out"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")],
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [1]),
    )
    with pytest.raises(CheckpointError, match="expected float features as the one input, found"):
        SpeakerEncoder(path, 192)


def test_other_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_network(
        path,
        [helper.make_node("Neg", ["a"], ["out"])],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, "F", 64])],
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, "F", 64]),
    )
    with pytest.raises(CheckpointError, match=r"features of shape \(1, frames, 80\), found \[1, 'F', 64\]"):
        SpeakerEncoder(path, 192)


def test_embedding_of_another_size_is_refused(tmp_path: Path) -> None:
    encoder = SpeakerEncoder(save_speaker_network(tmp_path / "net.onnx", 512), 192)
    with pytest.raises(CheckpointError, match="expected an embedding of 192 float32, found 512 float32"):
        encoder.embed(SAMPLES)


def test_embedding_of_another_type_is_refused(tmp_path: Path) -> None:
    path = save_network(
        tmp_path / "net.onnx",
        [helper.make_node("Cast", ["a"], ["out"], to=TensorProto.DOUBLE)],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, "F", 80])],
        helper.make_tensor_value_info("out", TensorProto.DOUBLE, [1, "F", 80]),
    )
    with pytest.raises(CheckpointError, match="expected an embedding of 80 float32, found 80 float64"):
        SpeakerEncoder(path, 80).embed(SAMPLES[:400])


def test_embedding_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """A single frame without its mean is zero, whose logarithm is infinite."""
    path = save_network(
        tmp_path / "net.onnx",
        [helper.make_node("Log", ["a"], ["out"])],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, "F", 80])],
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, "F", 80]),
    )
    with pytest.raises(CheckpointError, match="expected a finite embedding"):
        SpeakerEncoder(path, 80).embed(SAMPLES[:400])


def test_network_of_fixed_length_says_so(tmp_path: Path) -> None:
    encoder = SpeakerEncoder(save_speaker_network(tmp_path / "net.onnx", frames=10), 192)
    with pytest.raises(CheckpointError, match=r"expected a network for inputs of shape \(1, 48, 80\)"):
        encoder.embed(SAMPLES)
