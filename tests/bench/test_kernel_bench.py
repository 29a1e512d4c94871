"""`antiphon bench kernels`: timings in turns, the table, and the files it writes."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from antiphon.bench import kernel_runs
from antiphon.bench.kernel_report import format_s, table
from antiphon.bench.kernel_runs import KernelRun, Peaks, bench_op
from antiphon.bench.kernels.case import Case, Setting
from antiphon.bench.timing import COLD_BYTES, Timing, time_in_turns
from antiphon.cli.app import app

CPU = torch.device("cpu")


def run(arguments: list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bench", "kernels", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_ways_take_turns_and_inputs_rotate() -> None:
    seen: list[str] = []
    ways = {name: [lambda key=f"{name}{i}": seen.append(key) for i in range(2)] for name in "ab"}
    timings = time_in_turns(ways, CPU, repeats=3)
    assert set(timings) == {"a", "b"}
    assert all(len(timing.turns_s) == 3 for timing in timings.values())
    turns = [seen[0][0]]
    turns += [key[0] for before, key in itertools.pairwise(seen) if before[0] != key[0]]
    assert "".join(turns) == "ab" + "ab" * 3  # once to warm up
    assert seen.count("a0") - seen.count("a1") in (0, 1, 2)


def test_ratios_are_taken_turn_by_turn() -> None:
    slowing, steady = Timing([1.0, 2.0, 4.0]), Timing([2.0, 4.0, 8.0])
    assert slowing.times_faster(steady) == 2.0
    assert slowing.median_s == 2.0
    assert (slowing.low_s, slowing.high_s) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.5 s"), (2e-3, "2 ms"), (12.34e-6, "12.3 µs"), (5e-9, "5 ns")]
)
def test_seconds_have_three_digits(seconds: float, text: str) -> None:
    assert format_s(seconds) == text


def test_the_floor_is_the_larger_of_bytes_and_operations() -> None:
    runs = [
        kernel_run(bound="memory", share_of_floor=0.5),
        kernel_run(bound="matrix", share_of_floor=0.25),
        kernel_run(bound="memory", share_of_floor=None, no_floor="cached"),
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(table(runs, Peaks(1e10, 1e12), "title"))
    lines = out.getvalue().splitlines()
    assert any("4 x 5" in line and "0.1 GB/s" in line and "50%" in line for line in lines)
    assert any("3.0 GFLOP/s" in line and "25%" in line for line in lines)
    assert any("0.1 GB/s" in line and " cached " in line for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("num_bytes", "num_ops", "seconds", "expected"),
    [
        (COLD_BYTES, 0, 2.0, (0.5, "")),
        (COLD_BYTES, 0, 0.98, (1.0, "")),
        (COLD_BYTES, 0, 0.5, (None, "busy")),
        (1000, 0, 0.5, (None, "cached")),
        (1000, 1, 0.5, (None, "busy")),
    ],
    ids=["slower", "as fast", "impossible", "cached", "impossible product"],
)
def test_nothing_is_faster_than_its_floor(
    monkeypatch: pytest.MonkeyPatch,
    num_bytes: int,
    num_ops: int,
    seconds: float,
    expected: tuple[float | None, str],
) -> None:
    """The floor of each case takes a second."""
    case = Case("4 x 5", num_bytes, num_ops, inputs=lambda _: (), call=lambda **_: None)
    peaks = Peaks(num_bytes if not num_ops else 1e12, max(num_ops, 1e-9))
    monkeypatch.setattr(
        kernel_runs, "time_in_turns", lambda ways, *_, **__: {name: Timing([seconds]) for name in ways}
    )
    monkeypatch.setattr("antiphon.bench.kernels.linear.cases", lambda _: iter([case]))
    setting = Setting(None, torch.float32, CPU)  # type: ignore[arg-type]
    runs = list(bench_op("linear", setting, peaks, repeats=1, num_shapes=None, compiled=False))
    assert {(run.share_of_floor, run.no_floor) for run in runs} == {expected}


def kernel_run(bound: str, share_of_floor: float | None, no_floor: str = "") -> KernelRun:
    return KernelRun(
        op="linear",
        shape="4 x 5",
        dtype="float32",
        way="cpp",
        median_s=1e-6,
        low_s=1e-6,
        high_s=1e-6,
        num_bytes=100,
        num_ops=3000,
        bytes_per_s=1e8,
        ops_per_s=3e9,
        floor_s=5e-7,
        bound=bound,
        share_of_floor=share_of_floor,
        no_floor=no_floor,
        times_torch=2.0,
    )


@pytest.mark.slow
@pytest.mark.long
def test_files_say_what_was_measured(tmp_path: Path) -> None:
    files = [f"--{kind}={tmp_path / f'kernels.{kind}'}" for kind in ("json", "csv")]
    picture = tmp_path / "roofline.svg"
    code, output = run(["--op", "silu_mul, linear", "--quick", *files, "--plot", str(picture)])
    assert code == 0, output
    assert "silu_mul" in output
    assert "cpp" in output

    record = json.loads((tmp_path / "kernels.json").read_text())
    assert record["command"].startswith("antiphon bench kernels --op silu_mul,linear --config 97m")
    assert record["peaks"]["bytes_per_s"] > 1e8
    for found in record["runs"]:
        assert found["floor_s"] == pytest.approx(
            max(
                found["num_bytes"] / record["peaks"]["bytes_per_s"],
                found["num_ops"] / record["peaks"]["ops_per_s"],
            )
        )
        share = found["floor_s"] / found["median_s"]
        if found["no_floor"]:
            assert found["share_of_floor"] is None
            assert share > 1
        else:
            assert found["share_of_floor"] == pytest.approx(min(share, 1.0))
    assert [found["times_torch"] for found in record["runs"] if found["way"] == "torch"] == [1.0, 1.0]

    rows = list(csv.DictReader((tmp_path / "kernels.csv").read_text().splitlines()))
    assert [(row["op"], row["way"]) for row in rows] == [(r["op"], r["way"]) for r in record["runs"]]
    assert {row["torch"] for row in rows} == {torch.__version__}
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    assert "operations per byte" in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "liner"], "expected some of argmax, "),
        (["--config", "9b"], "expected one of auto, 8b, 97m, got '9b'"),
        (["--dtype", "int3"], "expected auto, float32, bfloat16, float16, got 'int3'"),
        (["--device", "tpu"], "got 'tpu'"),
        (["--json", "nowhere/k.json"], "nowhere/k.json: there is no folder"),
        (["--plot", "k.docx"], "expected a file named ."),
        (["--repeats", "0"], "Invalid value for '--repeats'"),
    ],
)
def test_wrong_options_are_told_before_anything_is_measured(arguments: list[str], message: str) -> None:
    code, output = run(arguments)
    assert code == 2
    assert message in " ".join(output.split())
