"""`antiphon bench text`: both backends in turns, the same ids, and a table and a record of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vllm_engines import fake_python

from antiphon.cli.app import app


@pytest.mark.slow
@pytest.mark.long
def test_both_backends_in_turns(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app,
        [
            *("bench", "text", "--python", fake_python(tmp_path), "--batch", "1,2", "--prompt-chars", "5"),
            *("--tokens", "3", "--units", "4", "--repeats", "1", "--json", str(tmp_path / "record.json")),
        ],
    )
    assert found.exit_code == 0, found.output
    assert "spoken replies, vllm" in found.output
    rows = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert [(row["backend"], row["reply"], row["num_requests"]) for row in rows] == [
        (backend, reply, size)
        for size in (1, 2)
        for reply in ("text", "spoken")
        for backend in ("native", "vllm")
    ]
    assert all(row["same_ids"] == row["num_compared"] == row["num_requests"] for row in rows)
    assert all(row["per_s"] > 0 and row["first_text_s"] > 0 for row in rows)
