"""The speech tokenizer, exported: ours for ragged batches, that of another project as it is."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from checkpoints import RANDOM_CODEC
from torch import Tensor

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.cli import main
from antiphon.codec import Codec
from antiphon.codec.analysis.logmel import log_mel
from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.folder import export_parts
from antiphon.export.part import PRECISIONS, Precision
from antiphon.export.tokenizer import PRODUCER, TOKENIZER_PART, Spoken, TokenizerSource, read_tokenizer
from antiphon.export.tokenizer_network import tokenizer_of
from antiphon.export.verify import verify
from antiphon.sound.reading import read_audio

QUESTIONS = Path(__file__).parents[1] / "golden" / "spoken_questions"
SIZES = (203, 1, 42)


@pytest.fixture(scope="module")
def ours() -> TokenizerSource:
    return read_tokenizer(EMBEDDED_CODEC)


@pytest.fixture(scope="module")
def foreign() -> TokenizerSource:
    return read_tokenizer(RANDOM_CODEC)


@pytest.fixture(scope="module")
def speech() -> list[Tensor]:
    """Log-mels of three spoken questions."""
    rows = []
    for number in range(3):
        samples, rate_hz = soundfile.read(QUESTIONS / f"{number:02}.flac", dtype="float32")
        assert rate_hz == 16000
        rows.append(log_mel(torch.from_numpy(samples)))
    return rows


def module(source: TokenizerSource, precision: Precision, *given: Tensor) -> list[Tensor]:
    network = tokenizer_of(source.model, PRECISIONS[precision])
    assert network is not None
    with torch.inference_mode():
        return [network(*given)]


def test_ours_is_read_back_from_its_file(ours: TokenizerSource, speech: list[Tensor]) -> None:
    """A padded batch of speech gives the units that the file gives of each clip."""
    spoken = Spoken.of(ours, speech)
    (units,) = module(ours, "fp32", spoken.feats, spoken.lengths)
    for row, expected in zip(units, spoken.units, strict=True):
        assert row[: len(expected)].tolist() == expected.tolist()
        assert (row[len(expected) :] == -1).all()
        assert len(expected.unique()) > 20


def test_places_on_the_grid_do_not_depend_on_the_padding(ours: TokenizerSource) -> None:
    """Also of a row so soft that the padding would be the loudest in it."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        loudness + 0.2 * torch.randn(128, n, generator=generator) for loudness, n in ((0.3, 90), (-1.3, 41))
    ]
    spoken = Spoken.of(ours, rows)
    assert ours.network is not None
    assert spoken.digits is not None
    with torch.inference_mode():
        digits = ours.network.digits(spoken.feats, spoken.lengths)
    for found, expected in zip(digits, spoken.digits, strict=True):
        torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=1e-4)


def test_other_units_are_told_by_their_distance(ours: TokenizerSource, speech: list[Tensor]) -> None:
    """Beside the right ones on the grid's last axis."""
    spoken = Spoken.of(ours, speech[:1])
    units = spoken.units[0][None]
    last = units % 5
    below, above = units - last + (last - 1).abs(), units - last + 4 - (3 - last).abs()
    for given in (units, below, above):
        found, expected = TOKENIZER_PART.compare(spoken, lambda *_, given=given: [given])["units"]
        off = (found[0] - expected[0]).abs().amax(1)
        assert off.max() <= 1
        assert ((off == 0) == (given[0] == units[0])).all()


def test_half_precision_stays_close(ours: TokenizerSource, speech: list[Tensor]) -> None:
    """The places on the grid move by less than a tenth of a step."""
    spoken = Spoken.of(ours, speech[:1])
    assert spoken.digits is not None
    network = tokenizer_of(ours.model, torch.float16)
    assert network is not None
    with torch.inference_mode():
        error = (network.digits(spoken.feats, spoken.lengths)[0] - spoken.digits[0]).abs().max()
    assert 1e-4 < error < 0.1
    results = TOKENIZER_PART.compare(spoken, partial(module, ours, "fp16"))
    for found, expected in zip(*results["units"], strict=True):
        assert (found - expected).abs().max() < 0.1


def test_another_network_is_not_taken_for_ours(ours: TokenizerSource, foreign: TokenizerSource) -> None:
    """Nor is ours with a layer more, or with a wider one."""
    assert ours.network is not None
    assert foreign.network is None
    for name, shape in (("encoder.more.weight", (3,)), ("encoder.norm.weight", (7,))):
        model = onnx.ModelProto()
        model.CopyFrom(ours.model)
        kept = [each for each in model.graph.initializer if not each.name.startswith(name)]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
        for node in list(model.graph.node):
            if node.output[0] == name:
                model.graph.node.remove(node)
        assert tokenizer_of(model) is None


def test_that_of_another_project_is_copied(foreign: TokenizerSource, tmp_path: Path) -> None:
    """All of its network, and what it says of itself; with what says where it comes from."""
    foreign.model.metadata_props.add(key="author", value="somebody")
    out = tmp_path / "out"
    (written,) = export_parts([TOKENIZER_PART], lambda _: foreign, out, precision="fp16", or_fp32=True)
    assert written.precision == "fp32"
    model = onnx.load(written.path)
    assert model.graph == foreign.model.graph
    about = {each.key: each.value for each in model.metadata_props}
    assert about["author"] == "somebody"
    assert about["antiphon.opset"] == str(foreign.model.opset_import[0].version)
    assert about[PRODUCER] == f"{foreign.model.producer_name} {foreign.model.producer_version}".strip()
    assert about["antiphon.sha256.speech_tokenizer_v1.onnx"]
    rows = list(verify(out, lambda _: foreign, [(3,), (50, 8)]))
    assert all(row.is_within for row in rows)
    with pytest.raises(
        ConfigError, match="expected fp32 for this tokenizer, which is copied as it is, got 'f"
    ):
        export_parts([TOKENIZER_PART], lambda _: foreign, tmp_path / "half", precision="fp16")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["antiphon", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    out, codec = tmp_path / "out", ("--codec", RANDOM_CODEC)
    assert ended("tokenizer", *codec, "--out", out, "--precision", "fp16") == 2
    assert "precision: expected fp32 for this tokenizer" in capsys.readouterr().err
    assert not out.exists()
    assert ended("tokenizer", *codec, "--out", out) == 0
    assert "tokenizer.onnx: onnx, fp32, " in capsys.readouterr().out
    assert ended("verify", out, *codec, "--quick") == 0
    assert "tokenizer.onnx (fp32) against PyTorch" in capsys.readouterr().out
    assert ended("verify", out) == 1  # the packaged codec has another
    assert "antiphon.weights: expected" in capsys.readouterr().err


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    assert not TOKENIZER_PART.is_there(tmp_path)
    assert TOKENIZER_PART.is_there(RANDOM_CODEC)
    with pytest.raises(CheckpointError, match="expected a CosyVoice folder, found no folder"):
        read_tokenizer(tmp_path / "no")
    with pytest.raises(CheckpointError, match=r"speech_tokenizer_v1\.onnx"):
        read_tokenizer(tmp_path)
    shutil.copy(EMBEDDED_CODEC / "speech_tokenizer_v1.onnx", tmp_path)
    model = onnx.load(tmp_path / "speech_tokenizer_v1.onnx")
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    for node in model.graph.node:
        node.input[:] = [name if name != "feats_length" else "as_int32" for name in node.input]
    cast = onnx.helper.make_node("Cast", ["feats_length"], ["as_int32"], to=onnx.TensorProto.INT32)
    model.graph.node.insert(0, cast)
    onnx.save(model, tmp_path / "speech_tokenizer_v1.onnx")
    with pytest.raises(CheckpointError, match="expected float features and an int32 length as inputs"):
        read_tokenizer(tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_ours_takes_the_place_of_the_packaged_file(
    ours: TokenizerSource, speech: list[Tensor], tmp_path: Path
) -> None:
    """It is within its bounds, takes ragged batches, and a codec can tokenize with it."""
    (written,) = export_parts([TOKENIZER_PART], lambda _: ours, tmp_path / "out")
    rows = list(verify(written.path.parent, lambda _: ours, [(1,), (2,), SIZES]))
    assert all(row.is_within for row in rows)
    spoken = Spoken.of(ours, speech)
    units = OnnxNetwork(written.path).run(spoken.feats.numpy(), spoken.lengths.numpy())
    for row, expected in zip(units, spoken.units, strict=True):
        assert row[: len(expected)].tolist() == expected.tolist()
    samples, _ = read_audio(str(QUESTIONS / "04.flac"))
    own = Codec.from_pretrained(EMBEDDED_CODEC, "cpu")
    assert SpeechTokenizer(written.path, own.num_units_vocab).tokenize(samples) == own.tokenize(
        samples, 16000
    )
