"""The comparison of formats on the embedded model: the same questions, typed and spoken, asked of each."""

from __future__ import annotations

import json
from pathlib import Path

import compare_formats
import pytest
import typer


@pytest.mark.slow
@pytest.mark.long
def test_formats_are_asked_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    compare_formats.main(num=4, formats="float32,int8", write=file)
    exact, int8 = json.loads(file.read_text())["runs"]
    assert (exact["name"], int8["name"]) == ("float32", "int8")
    assert exact["typed_otherwise"] >= 50
    assert int8["word_error"] < exact["word_error"] + 50
    shown = capsys.readouterr().out
    assert "int8" in shown


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match=r"expected some of float32, .*, got int4, int2"):
        compare_formats.main(num=1, formats="int8,int4,int2", write=None)
