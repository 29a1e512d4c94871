"""`antiphon export verify`: its figures, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import RANDOM_CODEC

from antiphon.cli import main
from antiphon.errors import CheckpointError
from antiphon.export.conditions import ENCODER_PART
from antiphon.export.flow import BATCHES, QUICK_BATCHES
from antiphon.export.folder import export_parts
from antiphon.export.sources import FlowSource
from antiphon.export.verify import verify


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["antiphon", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_batches() -> None:
    """Up to 3,000 frames and 16 rows, odd and even, ragged; the quick ones are part of that range."""
    lengths = {frames for batch in BATCHES for frames in batch}
    assert min(lengths) == 1
    assert max(lengths) == 3000
    assert {frames % 2 for frames in lengths} == {0, 1}
    assert {len(batch) for batch in BATCHES} == {1, 2, 5, 16}
    assert all(len(set(batch)) == len(batch) for batch in BATCHES)
    assert max(frames for batch in QUICK_BATCHES for frames in batch) == 150


@pytest.mark.slow
def test_float32_is_within_its_bounds(fp32: Path, source: FlowSource) -> None:
    rows = list(verify(fp32, lambda _: source, [(1,), (2,), (51,), (40, 1, 23)]))
    assert [(row.file, row.sizes, row.result) for row in rows[:4]] == [
        ("flow.onnx", (1,), "velocity"),
        ("flow.onnx", (1,), "mel"),
        ("solver.onnx", (1,), "mel"),
        ("flow.onnx", (2,), "velocity"),
    ]
    assert all(row.is_within and not row.num_nan and row.relative_error < 1e-4 for row in rows)
    assert any(row.max_error for row in rows)


@pytest.mark.slow
def test_float16_is_within_its_bounds(
    fp16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert ended(monkeypatch, "verify", fp16, "--codec", RANDOM_CODEC, "--quick", "--json", out) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 * len(QUICK_BATCHES)
    assert {row["precision"] for row in rows} == {"fp16"}
    assert all(row["is_within"] for row in rows)
    assert max(row["relative_error"] for row in rows) > 1e-4  # it is not float32
    assert "flow.decoder.estimator.fp16.onnx (fp16) against PyTorch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_encoder_and_hift_are_within_their_bounds(
    front_and_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights lie beside; prompts, chunks and windows are among the rows."""
    out = tmp_path / "figures.json"
    arguments = ("verify", front_and_back, "--codec", RANDOM_CODEC, "--quick", "--json", out)
    assert ended(monkeypatch, *arguments) == 0
    rows = json.loads(out.read_text())["rows"]
    results = {(row["file"], row["result"]) for row in rows}
    assert results == {
        ("encoder.onnx", "mu"),
        ("encoder.onnx", "speaker"),
        ("hift.onnx", "samples"),
        ("hift.onnx", "cycles"),
    }
    assert all(row["is_within"] and row["relative_error"] < 1e-4 for row in rows)
    assert any(row["max_error"] for row in rows)


@pytest.mark.slow
@pytest.mark.long
def test_an_encoder_in_float16_is_opened(source: FlowSource, tmp_path: Path) -> None:
    """With its positions turned just before their product, onnxruntime 1.32 crashed while it opened the
    file."""
    export_parts([ENCODER_PART], lambda _: source, tmp_path / "out", precision="fp16")
    rows = list(verify(tmp_path / "out", lambda _: source, [(1,), (44, 3, 13)]))
    assert {row.result: row.is_within for row in rows} == {"mu": True, "speaker": True}
    assert max(row.relative_error for row in rows) > 1e-5  # it is not float32


@pytest.mark.slow
def test_what_is_off_ends_with_status_1(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight that has changed, and one that is NaN; the metadata are as they were."""
    for name, value in (("changed", 0.5), ("nan", np.nan)):
        model = onnx.load(fp32 / "flow.onnx")
        bias = next(part for part in model.graph.initializer if part.name.endswith("final_proj.bias"))
        array = onnx.numpy_helper.to_array(bias).copy()
        array[3] = value
        bias.CopyFrom(onnx.numpy_helper.from_array(array, bias.name))
        (tmp_path / name).mkdir()
        onnx.save(model, tmp_path / name / "flow.onnx")
        out = tmp_path / f"{name}.json"
        arguments = ("verify", tmp_path / name, "--codec", RANDOM_CODEC, "--quick", "--json", out)
        assert ended(monkeypatch, *arguments) == 1
        rows = json.loads(out.read_text())["rows"]
        assert not any(row["is_within"] for row in rows)
        assert all(bool(row["num_nan"]) == (name == "nan") for row in rows)
        assert "off" in capsys.readouterr().out


def test_folders_that_hold_no_export(source: FlowSource, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="export` wrote, found no folder"):
        next(verify(tmp_path / "no", lambda _: source))
    with pytest.raises(CheckpointError, match=r"export` writes \(.*flow\.onnx, solver\.onnx.*found none"):
        next(verify(tmp_path, lambda _: source))


@pytest.mark.slow
def test_an_export_of_another_codec_is_refused(
    fp32: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --codec the packaged one is meant."""
    assert ended(monkeypatch, "verify", fp32) == 1
    shown = capsys.readouterr().err
    assert "antiphon.weights: expected" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "--format"),
        (["--precision", "int4"], "--precision"),
        (["--calibrate", "units.txt"], "expected --precision int8, got fp32"),
        (["--min", "5"], "--min: expected --format tensorrt"),
        (["--target", "sm80"], "--target: expected --format tensorrt"),
        ([], "missing option --out"),
    ],
)
def test_wrong_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = ["--out", str(tmp_path / "out")] if options else []
    assert ended(monkeypatch, "flow", "--codec", RANDOM_CODEC, *options, *target) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").touch()
    assert ended(monkeypatch, "flow", "--codec", RANDOM_CODEC, "--out", tmp_path) == 1
    assert "expected the name of a new folder; this exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
