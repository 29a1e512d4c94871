"""`antiphon bench streaming` on the packaged codec: what it reports."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from antiphon.bench.streaming import measure
from antiphon.cli.app import app
from antiphon.codec import Codec
from antiphon.codec.stream import SpeechStream
from antiphon.config import StreamSchedule


@pytest.mark.slow
@pytest.mark.long
def test_figures_of_every_schedule(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = [
        "--units",
        "60",
        "--utterances",
        "1",
        "--context",
        "0,25",
        "--lookahead",
        "3",
        "--json",
        str(out),
    ]
    result = CliRunner().invoke(app, ["bench", "streaming", *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    assert [(row["context_units"], row["lookahead_units"]) for row in rows] == [(0, 3), (25, 3)]
    for row in rows:
        assert row["samples_off"] == 0
        assert row["num_seams"] >= 2
        assert 0 < row["log_mel_distance"] < row["other_noise_distance"]
    bad = CliRunner().invoke(app, ["bench", "streaming", "--context", "x"])
    assert bad.exit_code == 2
    assert "whole numbers separated by commas" in " ".join(bad.output.split())


@pytest.mark.slow
def test_seams_that_show_are_seen(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure itself: pieces at other levels make steps that stand out where they meet."""
    units = np.random.default_rng(0).integers(0, 64, 60).tolist()
    smooth = measure(codec, [units], StreamSchedule())
    push, count = SpeechStream.push, itertools.count()

    def uneven(stream: SpeechStream, units: Any = (), final: bool = False) -> Any:
        samples = push(stream, units, final)
        return samples + 20.0 * (next(count) % 2) if len(samples) else samples

    monkeypatch.setattr(SpeechStream, "push", uneven)
    assert smooth.bend_at_seams <= 1.5
    assert measure(codec, [units], StreamSchedule()).bend_at_seams > 2
