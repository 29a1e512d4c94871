"""`antiphon bench codec` on a codec of a few thousand weights: what it reports, not how fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from antiphon.bench.codec_flops import codec_flops
from antiphon.bench.dummy_codec import dummy_codec, read_params
from antiphon.bench.plain_codec import PlainCodec
from antiphon.cli.app import app
from antiphon.codec.checkpoint.hyperparams import CodecParams, FlowParams, HiftParams
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.hift.hift import Hift


@pytest.fixture
def small_config(tmp_path: Path, odd_flow_params: FlowParams, odd_hift_params: HiftParams) -> str:
    sizes = {"flow": asdict(odd_flow_params), "hift": asdict(odd_hift_params)}
    (tmp_path / "codec.json").write_text(json.dumps(sizes), encoding="utf-8")
    return str(tmp_path)


def bench(*options: str) -> Any:
    return CliRunner().invoke(app, ["bench", "codec", *options])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.long
def test_bench(small_config: str, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "out.json"
    options = ["--seconds", "0.4,1.2", "--batch", "1,2", "--repeats", "1", "--dtype", dtype]
    result = bench("--config", small_config, "--json", str(out), *options)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    ways = [(run["way"], run["num_utterances"]) for run in record["runs"]]
    assert ways == [("plain", 1), ("whole", 1), ("whole", 2), ("streamed", 1), ("streamed", 2)] * 2
    for run in record["runs"]:
        assert run["compute_s_per_s"] > 0
        assert (run["flow_share"] is None) == (run["way"] == "plain")
        assert (run["flop_per_s"] is None) == (run["way"] == "streamed")
    # 10 units are too few for a stream to begin before its last one; 30 are not.
    firsts = [run["first_audio_s"] is not None for run in record["runs"] if run["way"] == "streamed"]
    assert firsts == [False, False, True, True]
    assert (record["error"]["mel_max"] < 1e-4) == (dtype == "float32")
    assert dtype in result.output


@pytest.mark.slow
@pytest.mark.long
def test_onnxruntime_beside_ours(small_config: str, tmp_path: Path) -> None:
    """The export is made once, and then used."""
    out, export = tmp_path / "out.json", tmp_path / "onnx"
    for repeats in ("1", "2"):
        options = ["--seconds", "0.4", "--batch", "1,2", "--repeats", repeats, "--onnx", str(export)]
        result = bench("--config", small_config, "--json", str(out), *options)
        assert result.exit_code == 0, result.output
        made = (export / "flow.onnx").stat().st_mtime_ns
        runs = json.loads(out.read_text())["runs"]
        ways = [(run["way"], run["num_utterances"]) for run in runs]
        assert ways == [("plain", 1), *((way, n) for way in ("whole", "onnx", "streamed") for n in (1, 2))]
        assert all(run["flow_share"] > 0 for run in runs if run["way"] == "onnx")
    assert (export / "flow.onnx").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "1,x"], "expected positive numbers separated by commas"),
        (["--seconds", "0"], "expected positive numbers separated by commas"),
        (["--batch", "1.5"], "expected positive numbers separated by commas"),
        (["--dtype", "int8"], "expected auto, float32, bfloat16, float16"),
        (["--device", "tpu"], "expected auto, cpu or cuda"),
    ],
)
def test_bad_options_are_refused(options: list[str], message: str) -> None:
    result = bench(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_sizes_of_the_released_codec(manifest: Callable[[str], dict[str, list[int]]]) -> None:
    """The configuration of the figures is the released one, and its arithmetic what was counted there."""
    params = read_params("codec_300m")
    with torch.device("meta"):
        modules = {"flow": FlowModel(params.flow), "hift": Hift(params.hift)}
    shapes = {name: list(value.shape) for name, value in modules["flow"].state_dict().items()}
    assert shapes == manifest("flow")
    assert sum(value.numel() for value in modules["hift"].state_dict().values()) == 20_447_517
    flops = codec_flops(params, 25)
    assert flops.flow == pytest.approx(1.14e9 + 20 * 7.75e9, rel=0.01)
    assert flops.f0 == pytest.approx(0.56e9, rel=0.01)
    assert flops.hift == pytest.approx(51.2e9, rel=0.01)


def test_plain_codec_is_the_codec(odd_flow_params: FlowParams, odd_hift_params: HiftParams) -> None:
    """The reference beside the figures computes the same speech, by the released code's way."""
    codec = dummy_codec(CodecParams(odd_flow_params, odd_hift_params))
    units = list(range(20))
    plain = PlainCodec(codec)
    mel = plain.mel(codec.decoder.flow_input(units, codec.voice(None), seed=1))
    np.testing.assert_allclose(codec.mel(units, seed=1), mel.numpy(), rtol=0, atol=1e-4)
    source = plain.source(mel, 1)
    wave = plain.waveform(mel, source)
    np.testing.assert_allclose(codec.vocode(mel, source=source), wave.numpy(), rtol=0, atol=1e-5)
    assert wave.std() > 1e-3
