"""`antiphon bench speech` and `bench engine` on the smallest of everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from antiphon import Engine
from antiphon.bench.engine import paced_speaking
from antiphon.bench.speech import bench_speech
from antiphon.cli.app import app


@pytest.mark.slow
def test_all_that_is_picked_is_spoken() -> None:
    with Engine() as engine:
        run_top = engine.runner.run_top
        [run] = bench_speech(engine, [2], prompt_units=20, units=30, rate=0.5, repeats=1)
        assert engine.runner.run_top == run_top
        rate_hz = 25
    assert run.num_requests == 2
    seconds = 2 * 30 / run.units_per_s
    assert run.audio_s_per_s * seconds == pytest.approx(2 * 30 / rate_hz, rel=0.02)
    assert 0 < run.recognition_s < run.first_audio_s <= run.last_first_audio_s < seconds


def test_units_ask_for_text_at_the_given_rate_after_a_fault_too() -> None:
    text = [5] * 10
    state = paced_speaking(0.5)(blank=0, eot=5, lag=2, carries_speech=lambda _: False, text_input=True)
    state.consume(text, text_ended=False)
    for label in (0, 7, 7, 0):
        state.read_back(label)
        state.consume(text, text_ended=False)
    assert state.visible == [2, 2, 3, 3, 4]
    assert state.again(text, text_ended=False).visible == state.visible


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("speech", ["--config", "x"], "expected one of auto, 8b, 97m, got 'x'"),
        ("speech", ["--batch", "1,0"], "expected positive numbers separated by commas, got '1,0'"),
        ("speech", ["--codec-dtype", "int8"], "--codec-dtype: expected auto, float32"),
        ("engine", ["--batch", "x"], "expected positive numbers separated by commas, got 'x'"),
        ("engine", ["--dtype", "double"], "--dtype: expected auto, float32"),
        (
            "engine",
            ["--formats", "int8,int4"],
            "--formats: expected some of float32, bfloat16, float16, int8",
        ),
    ],
)
def test_wrong_options_are_named(name: str, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", name, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.long
def test_formats_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    small = ["--batch", "1,2", "--prompt-units", "5", "--units", "3", "--repeats", "1", "--json", str(file)]
    arguments = ["bench", "engine", "--formats", "float32,int8", *small]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    runs = {(run["weights"], run["num_requests"]): run for run in found["runs"]}
    assert list(runs) == [("float32", 1), ("int8", 1), ("float32", 2), ("int8", 2)]
    assert runs["float32", 1]["times_first"] == runs["float32", 2]["times_first"] == 1.0
    assert runs["int8", 1]["floor_units_per_s"] > 2 * runs["float32", 1]["floor_units_per_s"]
    assert "--formats float32,int8" in found["command"]
    assert "ratio" in result.output


def test_the_released_size_is_the_default_on_a_gpu() -> None:
    from antiphon.bench.options import read_config, read_dtype

    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [read_config("auto", cpu), read_config("auto", cuda), read_config("97m", cuda)] == [
        "97m",
        "8b",
        "97m",
    ]
    assert [read_dtype("auto", cpu), read_dtype("auto", cuda)] == [torch.float32, torch.bfloat16]
