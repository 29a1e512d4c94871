"""`antiphon quantize`: a folder that --model takes, or one line that says why not."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from checkpoints import RANDOM_MODEL
from rich.console import Console

from antiphon import SamplingParams
from antiphon.bench import quantization
from antiphon.bench.quantization import Agreement, MatrixSignal, PartBytes, QuantizationReport
from antiphon.bench.serving.questions import Question
from antiphon.cli import main
from antiphon.cli.quantization_report import tables
from antiphon.model.checkpoint.folder import read_config

SCHEME = ("--scheme", "int8-weight-only")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["antiphon", "quantize", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    assert ended(monkeypatch, RANDOM_MODEL, target, *SCHEME) == 0
    assert capsys.readouterr().out == f"{target}: int8-weight-only, 2 MB of weights instead of 4\n"
    assert read_config(target) == read_config(RANDOM_MODEL)
    assert ended(monkeypatch, RANDOM_MODEL, target, *SCHEME) == 2
    assert capsys.readouterr().err == (
        f"antiphon: {target}: expected the name of a new folder, found a folder\n"
    )
    assert ended(monkeypatch, target, tmp_path / "twice", *SCHEME) == 1
    shown = capsys.readouterr().err
    assert shown == (
        f"antiphon: {target}: expected a checkpoint that is not quantized, found one in int8-weight-only "
        "(by the quantization_config of its config.json); it is loaded as it is\n"
    )


@pytest.mark.parametrize("options", [(), ("--scheme", "int4"), ("--scheme", "")])
def test_other_schemes_are_refused(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, RANDOM_MODEL, tmp_path / "target", *options) == 2
    shown = capsys.readouterr().err
    assert "--scheme" in shown
    if options:
        assert all(scheme in shown for scheme in ("int8", "int8-weight-only"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from antiphon.model.checkpoint import quantized_folder

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(quantized_folder, "_write_all", full)
    assert ended(monkeypatch, RANDOM_MODEL, tmp_path / "target", *SCHEME) == 1
    shown = capsys.readouterr().err
    assert "No space left on device" in shown
    assert str(tmp_path / "target") in shown


def test_modules_can_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "int8"
    options = ("--scheme", "int8", "--keep", "audio_lm_head", "--keep", "top_audio_layers.0.*")
    assert ended(monkeypatch, RANDOM_MODEL, target, *options) == 0
    ignored = json.loads((target / "config.json").read_text("utf-8"))["quantization_config"]["ignore"]
    assert {"audio_lm_head", "model.top_audio_layers.0.mlp.down_proj"} <= {*ignored}
    assert ended(monkeypatch, RANDOM_MODEL, tmp_path / "other", *SCHEME, "--keep", "lm_hed") == 2
    assert capsys.readouterr().err == (
        "antiphon: --keep: expected patterns of modules that are quantized, such as 'lm_head' or "
        "'model.layers.0.*', got 'lm_hed', which names none\n"
    )
    assert ended(monkeypatch, RANDOM_MODEL, tmp_path / "other", *SCHEME, "--keep", "*") == 2
    assert capsys.readouterr().err == (
        "antiphon: --keep: expected patterns that leave something to quantize, got ['*']\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_a_report_shows_what_was_saved_and_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quantization, "read_workload", lambda: [Question(None, "How many?")])
    monkeypatch.setattr(quantization, "LIMITS", SamplingParams(max_tokens=8, max_units=8))
    target, figures = tmp_path / "int8", tmp_path / "report.json"
    options = ("--scheme", "int8", "--keep", "lm_head", "--report", "--json", figures)
    assert ended(monkeypatch, RANDOM_MODEL, target, *options) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{target}: int8, 2 MB of weights instead of 4\n")
    found = json.loads(figures.read_text("utf-8"))
    assert found["scheme"] == "int8"
    decibels = {each["name"]: each["decibels"] for each in found["signals"] if not each["kept"]}
    row = next(line for line in shown.splitlines() if "text 0" in line)
    assert [cell.strip() for cell in row.split("\u2502")[2:6]] == [
        f"{decibels[f'text 0 {part}']:.1f}" for part in ("qkv", "o", "gate_up", "down")
    ]
    assert f"CTC head {decibels['CTC head']:.1f}, LM head kept, " in shown
    least = min(decibels, key=lambda name: decibels[name])
    assert f"least signal to noise: {least} {decibels[least]:.1f} dB, " in shown
    assert f"perplexity of the replies before: {found['source_perplexity']:.5f}, after: " in shown
    assert "1 typed" in shown


def test_what_lost_nothing_is_exact() -> None:
    """Heads are no layers, and there are no transcripts where nothing was spoken."""
    found = QuantizationReport(
        scheme="int8",
        dtype="float32",
        files=PartBytes("files", 4_000_000, 1_000_000),
        parts=(PartBytes("text", 300_000_000, 100_000_000), PartBytes("fusion", 3_000_000, 1_500_000)),
        signals=(MatrixSignal("text 10 down", None), MatrixSignal("unit head", 41.26)),
        agreements=(Agreement("typed", 2, 2, 1, 1, 4, 3, 0, 0),),
        source_perplexity=1.0,
        target_perplexity=1.0,
    )
    written = io.StringIO()
    console = Console(width=100, file=written)
    for table in tables(found):
        console.print(table)
    shown = [re.split(r" *\u2502 *", line) for line in written.getvalue().splitlines()]
    cells = {row[1]: row[2:-1] for row in shown if len(row) > 2}
    assert cells["files"] == ["4.0", "1.0", "25 %"]
    assert cells["read by one of each"] == ["303", "102", "33 %"]
    assert cells["text 10"] == ["exact"]
    assert cells["text ids"] == ["75.0 % of 4"]
    assert not {"transcripts", "unit ids", "unit head"} & cells.keys()
    assert any(row[0].strip() == "unit head 41.3" for row in shown)


def test_figures_need_a_report_and_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would fail after the report is told before the first weight is read."""
    target, nowhere = tmp_path / "int8", tmp_path / "none" / "report.json"
    assert ended(monkeypatch, RANDOM_MODEL, target, *SCHEME, "--json", tmp_path / "report.json") == 2
    shown = " ".join(capsys.readouterr().err.replace("\u2502", " ").split())
    assert "--json: expected --report beside it, whose figures it writes" in shown
    assert ended(monkeypatch, RANDOM_MODEL, target, *SCHEME, "--report", "--json", nowhere) == 1
    assert capsys.readouterr().err == f"antiphon: {nowhere}: there is no folder {nowhere.parent}\n"
    assert not list(tmp_path.iterdir())
