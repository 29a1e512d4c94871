"""`antiphon bench turns`: its recordings are what it says, and it counts what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from antiphon.bench.turns import GAPS_S, Mixed, bench_turns, mixed_recordings
from antiphon.cli.app import app
from antiphon.sound.arrays import AudioArray
from antiphon.turns.settings import TurnDetection

RATE_HZ = 16000


def buzz(seconds: float) -> AudioArray:
    """What swells like speech."""
    rng = np.random.default_rng(0)
    return (0.3 * rng.normal(size=round(seconds * RATE_HZ))).astype(np.float32)


def quiet(seconds: float) -> AudioArray:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


@pytest.mark.slow
@pytest.mark.long
def test_the_seed_decides_the_recordings() -> None:
    first, again, other = (list(mixed_recordings(20, seed)) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one.samples, same.samples) and one.speech_end == same.speech_end
    assert any(one.pause_ms != another.pause_ms for one, another in zip(first, other, strict=True))
    assert {one.name for one in first} == set(GAPS_S)
    for one in first:
        assert 200 <= one.pause_ms <= 900
        assert one.samples.dtype == np.float32 and np.isfinite(one.samples).all()
        assert one.speech_end + 9 * one.rate_hz < len(one.samples)


def test_turns_are_counted() -> None:
    """One that ends late by the 500 ms of silence, one that is cut, and one in which nobody speaks."""
    whole = np.concatenate([quiet(1), buzz(0.8), quiet(3)])
    cut = np.concatenate([quiet(1), buzz(0.8), quiet(0.8), buzz(0.5), quiet(3)])
    recordings = [
        Mixed(whole, RATE_HZ, round(1.8 * RATE_HZ), 0.0, None, ""),
        Mixed(cut, RATE_HZ, round(3.1 * RATE_HZ), 800.0, None, ""),
        Mixed(quiet(4), RATE_HZ, RATE_HZ, 0.0, None, ""),
    ]
    found = bench_turns(recordings, TurnDetection(), "energy", None)
    assert (found.num_recordings, found.num_cut, found.num_missed) == (3, 1, 1)
    assert 500 <= found.median_delay_ms <= 650


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "turns.json"
    command = ["bench", "turns", "--recordings", "2", "--seed", "5", "--json", str(path)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    assert [(run["kind"], run["num_recordings"]) for run in record["runs"]] == [
        ("server_vad", 2),
        ("semantic_vad", 2),
    ]
    assert "semantic_vad auto" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "vad"], "--kind: expected one of server_vad, semantic_vad, both"),
        (["--activity", "x"], "--activity: expected one of auto, silero, energy"),
        (["--eagerness", "x"], "--eagerness: expected one of auto, low, medium, high"),
        (["--silence-ms", "60001"], "silence_duration_ms: expected an integer"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", "turns", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
