from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.errors import CheckpointError, InvalidRequest

RATES_HZ = [8000, 11025, 16000, 22050, 24000, 44100, 48000]


def constant_network(path: Path, value: int, names: tuple[str, str] = ("a", "b")) -> Path:
    """A network that answers one unit for every feature length it is told."""
    inputs = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, 128, "T"]),
        helper.make_tensor_value_info(names[1], TensorProto.INT32, [1]),
    ]
    output = helper.make_tensor_value_info("out", TensorProto.INT32, [1])
    constant = helper.make_tensor("c", TensorProto.INT32, [1], [value])
    graph = helper.make_graph(
        [helper.make_node("Add", [names[1], "c"], ["out"])], "g", inputs, [output], [constant]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_units_are_golden(codec: Codec, golden: dict[str, Tensor]) -> None:
    assert codec.tokenize(golden["logmel.wav16k"].numpy(), 16000) == golden["tokenizer.units"].tolist()


def test_integers_and_stereo_give_the_same_units(codec: Codec, golden: dict[str, Tensor]) -> None:
    samples = golden["logmel.wav16k"].numpy()
    stereo = np.stack([samples, samples], axis=1)
    assert codec.tokenize(stereo, 16000) == golden["tokenizer.units"].tolist()
    scaled = (samples / abs(samples).max() * 32767).astype(np.int16)
    assert codec.tokenize(scaled, 16000) == codec.tokenize(scaled / np.float32(32768), 16000)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_other_rates(codec: Codec, rate_hz: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, rate_hz).astype(np.float32)
    units = codec.tokenize(samples, rate_hz)
    assert len(units) == 25
    assert all(0 <= unit < codec.num_units_vocab for unit in units)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "uint8"])
def test_every_form_at_every_rate(codec: Codec, rate_hz: int, dtype: str) -> None:
    """Values that all of these forms hold exactly, alone and on two channels whose mean they are."""
    steps = np.random.default_rng(0).integers(-60, 60, (rate_hz // 4, 1)) * 2
    stereo = steps + np.random.default_rng(1).integers(-6, 6, (rate_hz // 4, 1)) * [1, -1]
    expected = codec.tokenize((steps[:, 0] / 128).astype(np.float32), rate_hz)
    for form in (steps[:, 0], steps, stereo):
        values = form / 128
        if dtype == "uint8":
            samples = (form + 128).astype(np.uint8)
        elif dtype.startswith("int"):
            samples = (values * 2.0 ** (int(dtype[3:]) - 1)).astype(dtype)
        else:
            samples = values.astype(dtype)
        assert codec.tokenize(samples, rate_hz) == expected
    assert len(expected) == 7


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_silence(codec: Codec, rate_hz: int) -> None:
    """Every unit is the same, but for those whose view ends with the clip."""
    units = codec.tokenize(np.zeros(2 * rate_hz, np.int16), rate_hz)
    assert len(units) == 50
    assert len(set(units[10:-10])) == 1


def test_long_audio_goes_in_pieces_of_30_s(codec: Codec) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16000 * 35).astype(np.float32)
    pieces = codec.tokenize(samples[: 30 * 16000], 16000) + codec.tokenize(samples[30 * 16000 :], 16000)
    assert codec.tokenize(samples, 16000) == pieces
    assert len(pieces) == 35 * 25


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("n", [1, 2, 100, 201])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_hardly_any_audio(codec: Codec, rate_hz: int, n: int, shape: tuple[int, ...]) -> None:
    for value in (0.0, 0.5):
        assert len(codec.tokenize(np.full((n, *shape), value, np.float32), rate_hz)) == 1


@pytest.mark.parametrize("rate_hz", [11025, 48000])
def test_pieces_are_of_30_s_at_any_rate(codec: Codec, rate_hz: int) -> None:
    """The last one may be a single sample: it has a unit of its own."""
    samples = np.random.default_rng(0).normal(0, 0.1, rate_hz * 30 + 1).astype(np.float32)
    assert len(codec.tokenize(samples[:-1], rate_hz)) == 750
    assert len(codec.tokenize(samples, rate_hz)) == 751


def test_bad_audio_is_refused(codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match="at least one sample"):
        codec.tokenize(np.zeros(0, np.float32), 16000)
    with pytest.raises(InvalidRequest, match="rate"):
        codec.tokenize(np.zeros(100, np.float32), 0)


def test_inputs_go_by_position(tmp_path: Path) -> None:
    """The length comes second whatever it is called: here it comes back as the unit."""
    path = constant_network(tmp_path / "net.onnx", 0, ("zzz", "aaa"))
    assert SpeechTokenizer(path, 64).tokenize(np.zeros(1600, np.float32)) == [10]


def test_units_out_of_range_are_refused(tmp_path: Path) -> None:
    path = constant_network(tmp_path / "net.onnx", 60)
    with pytest.raises(CheckpointError, match="expected units 0 to 63, found int32 70 to 70"):
        SpeechTokenizer(path, 64).tokenize(np.zeros(1600, np.float32))


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x09\x12\x05"])
def test_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"net\.onnx"):
        SpeechTokenizer(path, 64)


def test_other_network_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="expected float features and an int32 length"):
        SpeechTokenizer(tmp_path / "net.onnx", 64)


def test_folder_without_tokenizer_still_speaks(folder_copy: Path) -> None:
    (folder_copy / "speech_tokenizer_v1.onnx").unlink()
    codec = Codec.from_pretrained(folder_copy, device="cpu")
    assert codec.decode([[1, 2, 3]])[0].shape == (2560,)
    with pytest.raises(InvalidRequest, match=r"no speech_tokenizer_v1\.onnx"):
        codec.tokenize(np.zeros(1600, np.float32), 16000)
