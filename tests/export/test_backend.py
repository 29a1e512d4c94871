"""`vocoder_backend="onnxruntime:FOLDER"`: the same speech, with the same laws."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from onnx import TensorProto, helper

from antiphon import Engine, Request, SamplingParams, Units
from antiphon.codec import Codec
from antiphon.codec.exported import FLOW, KIND, WEIGHTS, Exported, fingerprint
from antiphon.codec.flow import onnx_unet
from antiphon.codec.stopping import Stopped, stoppable
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.folder import export_flow
from antiphon.export.sources import FlowSource

UNITS = [(7 * i) % 40 for i in range(45)]


@pytest.fixture(scope="module")
def exported(fp32: Path) -> Codec:
    return Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"onnxruntime:{fp32}")


def pushed(codec: Codec, sizes: int) -> np.ndarray[Any, Any]:
    stream = codec.stream(seed=3)
    parts = [
        stream.push(UNITS[i : i + sizes], final=i + sizes >= len(UNITS)) for i in range(0, len(UNITS), sizes)
    ]
    return np.concatenate(parts)


@pytest.mark.slow
def test_it_makes_the_same_speech(codec: Codec, exported: Codec) -> None:
    np.testing.assert_allclose(exported.mel(UNITS), codec.mel(UNITS), atol=1e-4)
    # Streams have the same number of samples, whatever the sizes of pushes.
    one_by_one = pushed(exported, 1)
    assert np.array_equal(one_by_one, pushed(exported, 17))
    assert one_by_one.shape == pushed(codec, 17).shape
    together = exported.decode([UNITS, UNITS[:9]], seeds=[1, 2])
    for i, units in enumerate((UNITS, UNITS[:9])):
        assert np.array_equal(together[i], exported.decode([units], seeds=[1 + i])[0])


@pytest.mark.slow
def test_rows_of_a_batch_and_rows_that_take_turns(
    codec: Codec, exported: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [codec.decoder.flow_input(UNITS[:n], codec.voice(None), seed=n) for n in (30, 1, 13)]
    expected, found = codec.decoder.mels(rows), exported.decoder.mels(rows)
    monkeypatch.setattr(onnx_unet, "MAX_SCORE_BYTES", 1)
    in_turn = exported.decoder.mels(rows)
    for right, batch, turn in zip(expected, found, in_turn, strict=True):
        torch.testing.assert_close(batch, right, rtol=0, atol=1e-4)
        torch.testing.assert_close(turn, right, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_decode_is_stopped_between_two_steps(exported: Codec) -> None:
    asked = iter([False] * 10)  # of the encoder's layers, and of some steps
    with pytest.raises(Stopped), stoppable(lambda: next(asked, True)):
        exported.mel(UNITS)


@pytest.mark.slow
def test_an_engine_speaks_with_it(fp32: Path) -> None:
    request = Request(
        [Units([1, 2, 3])], modalities=("text", "audio"), sampling_params=SamplingParams(max_units=20)
    )
    speech = []
    for backend in ("torch", f"onnxruntime:{fp32}"):
        with Engine(
            RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", vocoder_backend=backend, progress=False
        ) as engine:
            (done,) = engine.generate(request)
            assert done.unit_ids
            assert done.audio is not None
            speech.append(done.audio)
    assert speech[0].shape == speech[1].shape
    assert len(speech[0])


def test_bfloat16_is_not_for_a_cpu(source: FlowSource, tmp_path: Path) -> None:
    """onnxruntime has no kernels for it."""
    export_flow(source, tmp_path / "out", precision="bf16")
    with pytest.raises(CheckpointError, match=r"flow\.onnx: expected a precision that .* which bf16 is not"):
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"onnxruntime:{tmp_path / 'out'}")


def test_wrong_backends(codec: Codec, tmp_path: Path) -> None:
    for wrong in ("onnxruntime", "onnxruntime:", "tensorrt", None, 3):
        with pytest.raises(ConfigError, match=r"^backend: expected 'torch', 'onnxruntime:FOLDER' or"):
            Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=wrong)  # type: ignore[arg-type]
    given = f"onnxruntime:{tmp_path}"
    with pytest.raises(CheckpointError, match=r"expected flow\.onnx, as `antiphon export flow` writes it"):
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=given)
    with pytest.raises(CheckpointError, match="export flow` wrote, found no folder"):
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"{given}/no")
    with pytest.raises(ConfigError, match=r"vocoder_backend: expected a codec's folder .* no codec"):
        Engine(RANDOM_MODEL, device="cpu", vocoder_backend=given)
    with pytest.raises(ConfigError, match="vocoder_backend: expected a codec given as a folder"):
        Engine(RANDOM_MODEL, codec=codec, device="cpu", vocoder_backend=given)
    assert Exported.parse("backend", "torch") is None
    assert Exported.parse("backend", "onnxruntime:a:b") == Exported("onnxruntime", Path("a:b"))


@pytest.mark.parametrize(
    ("about", "shapes", "message"),
    [
        ({KIND: "solver"}, {}, "antiphon.kind: expected 'flow', found 'solver'"),
        ({KIND: None}, {}, "antiphon.kind: expected 'flow', found None"),
        ({WEIGHTS: "ab" * 32}, {}, "those of this codec, found 'abababababab'; export it again"),
        ({}, {"t": None}, "expected 6 inputs of float32, found"),
        (
            {},
            {"x": [2, 80, "frames"]},
            r"'x': expected shape \[None, 80, None\] .* found \[2, 80, ",
        ),
        ({}, {"mu": ["batch", 40, "frames"]}, r"'mu': expected shape .* found \['batch', 40, 'frames'\]"),
        ({}, {"t": ["batch", 1]}, r"'t': expected shape \[None\] .* found \['batch', 1\]"),
    ],
)
def test_files_that_do_not_fit(
    source: FlowSource,
    tmp_path: Path,
    about: dict[str, str | None],
    shapes: dict[str, list[int | str] | None],
    message: str,
) -> None:
    mel: list[int | str] = ["batch", 80, "frames"]
    all_shapes: dict[str, list[int | str] | None] = {
        "x": mel,
        "mask": ["batch", 1, "frames"],
        "mu": mel,
        "t": ["batch"],
        "speaker": ["batch", 80],
        "prompt": mel,
    }
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (all_shapes | shapes).items()
        if shape is not None
    ]
    output = helper.make_tensor_value_info("velocity", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["velocity"])], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    weights = fingerprint(source.estimator.params, source.estimator)
    known = {KIND: FLOW, WEIGHTS: weights} | about
    helper.set_model_props(model, {key: value for key, value in known.items() if value is not None})
    onnx.save(model, tmp_path / "flow.onnx")
    with pytest.raises(CheckpointError, match=message) as caught:
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"onnxruntime:{tmp_path}")
    assert str(tmp_path / "flow.onnx") in str(caught.value)


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "flow.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"onnxruntime:{tmp_path}")


def test_a_fingerprint_is_of_weights_and_sizes(source: FlowSource) -> None:
    unet = copy.deepcopy(source.estimator)
    params = unet.params
    first = fingerprint(params, unet)
    assert fingerprint(params, unet.double()) == first
    unet.float()
    assert fingerprint((params, 0.7), unet) != first
    unet.final_proj.weight.data[0, 0, 0] += 1
    assert fingerprint(params, unet) != first
