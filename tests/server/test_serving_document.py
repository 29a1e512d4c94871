"""What docs/serving.md tells a reader to run in Python works against a server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from http_server import Served
from openai_client import DEMO

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.mark.long
@pytest.mark.slow
def test_its_python_runs(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One block after the other, as a reader does."""
    for name in ("question.wav", "shapes.png"):
        shutil.copy(DEMO / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = re.findall(r"^```py\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:8000", served.address), "serving.md", "exec"), names)
        assert capsys.readouterr().out
    assert (tmp_path / "reply.wav").read_bytes()[:4] == b"RIFF"
