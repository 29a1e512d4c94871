"""What there is to export, and folders with several networks: `export all`, `export verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_parts import tiny_part

from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon.cli import main
from antiphon.cli.export import app
from antiphon.codec.exported import DATA, KIND, PRECISION
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.folder import RANGES, export_parts
from antiphon.export.part import Part
from antiphon.export.parts import PARTS
from antiphon.export.sources import Folders


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["antiphon", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_every_part_has_a_command_and_a_file_of_its_own() -> None:
    kinds = [part.kind for part in PARTS]
    files = [file for part in PARTS for file in part.files]
    assert len(set(kinds)) == len(kinds)
    assert len(set(files)) == len(files)
    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    # The solver is written by `export flow --solver`.
    assert set(kinds) - {"solver"} <= commands


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
def test_what_a_part_says_of_itself(part: Part[Any, Any]) -> None:
    """Single rows, the shortest one too, and ragged batches of up to 16 rows; the quick ones are a part of
    that."""
    assert "fp32" in part.bounds
    assert part.base is None or PARTS.index(part.base) < PARTS.index(part)
    sizes = [size for batch in part.batches for size in batch]
    assert part.ranges[part.size] == (1, max(sizes))
    assert part.ranges["batch"] == (1, 16)
    assert any(len(set(batch)) > 1 for batch in part.quick_batches)
    assert max(size for batch in part.quick_batches for size in batch) <= max(sizes)
    source = Folders(EMBEDDED_CODEC, EMBEDDED_MODEL)(part)
    axes = {axis for port in part.inputs(source) for axis in port.shape if isinstance(axis, str)}
    assert {"batch", part.size} <= axes
    assert part.weights(source) == part.weights(source)
    assert source.files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A codec and a model that tiny parts are read from."""
    for name in ("codec", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scale").write_text("3")
    return tmp_path / "codec", tmp_path / "model"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Part[Any, Any], ...]:
    first = tiny_part("first", precisions=("fp32", "fp16"))
    made = (
        first,
        tiny_part("around", base=first, precisions=("fp32", "fp16")),
        tiny_part("missing", is_there=False),
        tiny_part("heard", "model"),
    )
    monkeypatch.setattr("antiphon.export.parts.PARTS", made)
    return made


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (("--codec", "--model"), ["around.onnx", "first.onnx", "heard.onnx"]),
        (("--codec",), ["around.onnx", "first.onnx"]),
        (("--model",), ["heard.onnx"]),
    ],
)
def test_all_that_there_is(
    parts: tuple[Part[Any, Any], ...],
    folders: tuple[Path, Path],
    given: tuple[str, ...],
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of both folders, or of the one that is given; then all of it is compared with PyTorch."""
    codec, model = folders
    where = [each for name in given for each in (name, codec if name == "--codec" else model)]
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    assert ended(monkeypatch, "all", *where, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == files
    assert capsys.readouterr().out.count(".onnx: onnx, fp32, 0.0 MB") == len(files)
    assert ended(monkeypatch, "verify", out, *where, "--json", figures) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert sorted({row["file"] for row in rows}) == files
    assert len(rows) == 2 * len(files)
    assert all(row["is_within"] and row["num_nan"] == 0 and row["measure"] == "relative" for row in rows)
    shown = capsys.readouterr().out
    assert all(f"{file} (fp32) against PyTorch" in shown for file in files)


def test_a_precision_that_a_part_lacks(
    parts: tuple[Part[Any, Any], ...],
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all, those that lack it are float32; a part that is asked for by name is refused."""
    source_of = Folders(*folders)
    out = tmp_path / "out"
    where = ("--codec", folders[0], "--model", folders[1])
    assert ended(monkeypatch, "all", *where, "--precision", "fp16", "--out", out) == 0
    precisions = {}
    for path in out.iterdir():
        about = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
        precisions[path.name] = about[PRECISION]
        assert about[KIND] == path.stem
        assert json.loads(about[RANGES]) == {"batch": [1, 2], "frames": [1, 3]}
        assert DATA not in about
    assert precisions == {"first.onnx": "fp16", "around.onnx": "fp16", "heard.onnx": "fp32"}
    with pytest.raises(ConfigError, match="precision: expected fp32 for heard, got 'fp16'"):
        export_parts([parts[3]], source_of, tmp_path / "other", precision="fp16")
    with pytest.raises(ConfigError, match="weights: expected inside or beside, got 'near'"):
        export_parts([parts[3]], source_of, tmp_path / "other", weights="near")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_one_that_is_off_is_told_from_those_that_are_not(
    parts: tuple[Part[Any, Any], ...],
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_parts([parts[0], parts[3]], Folders(*folders), tmp_path / "out")
    monkeypatch.setattr("antiphon.export.parts.PARTS", (parts[0], tiny_part("heard", "model", scale=1.001)))
    figures = tmp_path / "figures.json"
    where = ("--codec", folders[0], "--model", folders[1])
    assert ended(monkeypatch, "verify", tmp_path / "out", *where, "--quick", "--json", figures) == 1
    rows = json.loads(figures.read_text())["rows"]
    assert {row["file"]: row["is_within"] for row in rows} == {"first.onnx": True, "heard.onnx": False}
    assert rows[1]["rms_error"] == pytest.approx(0.001, rel=0.01)
    # Weights that have changed since are told apart before anything is computed.
    (folders[1] / "scale").write_text("4")
    assert ended(monkeypatch, "verify", tmp_path / "out", *where) == 1
    assert "those of this model, found" in capsys.readouterr().err


def test_all_is_written_whole_or_not_at_all(
    parts: tuple[Part[Any, Any], ...],
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second folder has no weights: what was written of the first is gone."""
    (folders[1] / "scale").unlink()
    told: list[str] = []
    with pytest.raises(CheckpointError, match="scale: no such file"):
        export_parts([parts[0], parts[3]], Folders(*folders), tmp_path / "out", report=told.append)
    assert told == ["first.onnx: what first does, fp32", "heard.onnx: what heard does, fp32"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec", "model"]
