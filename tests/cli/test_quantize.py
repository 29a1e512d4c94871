"""`antiphon quantize`: a folder that --model takes, or one line that says why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from checkpoints import RANDOM_MODEL

from antiphon.cli import main
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
