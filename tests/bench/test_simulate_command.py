"""`antiphon bench simulate`: traces, flags, tables, and the times that it measures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from antiphon.bench.serving.load import Run
from antiphon.bench.serving.measuring import Load
from antiphon.bench.serving.questions import read_workload
from antiphon.bench.serving.reply import Reply
from antiphon.bench.simulate import calibrate as calibrating
from antiphon.bench.simulate import check as checking
from antiphon.bench.simulate.calibrate import Clients
from antiphon.bench.simulate.check import FIGURES, NUM_TIMES, TYPICAL, Checked, figures
from antiphon.bench.simulate.costs import MODEL, PREPARE, SPEECH, Wake, Work
from antiphon.bench.simulate.events import Clock, Machine
from antiphon.bench.simulate.fitting import fit, fit_curve
from antiphon.bench.simulate.fleet import simulate
from antiphon.bench.simulate.measured import Curve, read_costs
from antiphon.bench.simulate.moments import Moments
from antiphon.bench.simulate.rates import rates_of
from antiphon.bench.simulate.recorded import trace_of
from antiphon.bench.simulate.report import check_table
from antiphon.bench.simulate.traffic import DAY_CURVE, Arrival, busiest, day, read_trace, write_trace
from antiphon.bench.simulate.watching import READ, SPOKEN, STEP, Piece
from antiphon.cli.app import app

FEW = [Arrival(0.3 * i, 1.5, 6, speech_s=2.0) for i in range(4)]


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["bench", "simulate", *arguments])
    return found.exit_code, " ".join(found.output.replace("│", " ").split())


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    write_trace(path, FEW)
    return path


# --- traffic ------------------------------------------------------------------------------------


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    arrivals = [
        *day(40, 1),
        Arrival(90_000.0, 1.0, 2, speech_s=1.0, pictures=("a", "b"), prompt="p", realtime=True, pause_s=0.5),
    ]
    write_trace(path, arrivals)
    assert read_trace(path) == arrivals


def test_lines_are_put_in_order_and_pictures_may_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"at_s": 2, "reply_s": 1, "reply_tokens": 3, "text_tokens": 4}\n\n'
        '{"at_s": 1, "reply_s": 1, "reply_tokens": 3, "speech_s": 1, "pictures": 2}\n'
    )
    found = read_trace(path)
    assert [arrival.at_s for arrival in found] == [1.0, 2.0]
    assert len(set(found[0].pictures)) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "line 2: expected a JSON object, got '[1]'"),
        ("{", "line 2: expected a JSON object, got '{'"),
        ('{"at_s": 1}', "line 2: reply_s: expected a number, found none"),
        (
            '{"at_s": -1, "reply_s": 1, "reply_tokens": 1}',
            "line 2: at_s: expected a number from 0",
        ),
        ('{"at_s": NaN, "reply_s": 1, "reply_tokens": 1}', "line 2: at_s: expected a number from 0"),
        ('{"at_s": 1, "reply_s": 1, "reply_tokens": 1.5}', "line 2: reply_tokens: expected a whole number"),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1}',
            "line 2: speech_s, text_tokens: expected at least one",
        ),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 0, "speech_s": 1}',
            "line 2: reply_tokens: expected at least 1",
        ),
        (
            '{"at_s": 1, "reply_s": 0, "reply_tokens": 1, "speech_s": 1}',
            "line 2: reply_s: expected a number above 0",
        ),
        ('{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "speech": 1}', "line 2: 'speech' is none of at_s,"),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "speech_s": 1, "realtime": 1}',
            "line 2: realtime: expected true or false",
        ),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "text_tokens": 1, "realtime": true}',
            "line 2: realtime: expected speech_s above 0",
        ),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "speech_s": 1, "pause_s": 1}',
            "line 2: pause_s: expected realtime with it",
        ),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "speech_s": 1, "pictures": "a"}',
            "line 2: pictures: expected a number",
        ),
        (
            '{"at_s": 1, "reply_s": 1, "reply_tokens": 1, "speech_s": 1, "prompt": 3}',
            "line 2: prompt: expected a string",
        ),
    ],
)
def test_a_bad_line_is_named(trace: Path, line: str, told: str) -> None:
    trace.write_text('{"at_s": 0, "reply_s": 1, "reply_tokens": 3, "speech_s": 1}\n' + line)
    with pytest.raises(ValueError, match="line 2") as raised:
        read_trace(trace)
    assert str(raised.value).startswith(told)


def test_a_day_has_its_requests_and_its_shape() -> None:
    arrivals = day(20_000, 3)
    assert len(arrivals) == pytest.approx(20_000, rel=0.05)
    assert arrivals == day(20_000, 3) != day(20_000, 4)
    hours = np.histogram([arrival.at_s for arrival in arrivals], bins=24, range=(0, 86_400))[0]
    curve = np.array(DAY_CURVE)
    expected = (curve + np.roll(curve, -1)) / 2
    assert np.corrcoef(hours, expected)[0, 1] > 0.95
    assert hours.argmax() in (17, 18, 19, 20, 21)


def test_the_busiest_window() -> None:
    at_s = [0.0, 5.0, 20.0, 21.0, 22.5, 40.0]
    chosen = busiest([replace(FEW[0], at_s=each) for each in at_s], 3.0)
    assert [arrival.at_s for arrival in chosen] == [0.0, 1.0, 2.5]


def test_what_was_asked_becomes_a_trace() -> None:
    questions = read_workload()
    spoken = next(q for q in questions if q.sound is not None and q.picture is not None)
    typed = next(q for q in questions if q.sound is None and q.picture is None)
    asked = Run(begun_s=100.0)
    for question, due_s, failure in ((typed, 103.0, None), (spoken, 101.0, None), (typed, 104.0, "timeout")):
        reply = Reply(question.kind, due_s)
        reply.add_audio(due_s + 0.5, 2.0)
        reply.num_tokens = 50 + 7
        asked.replies.append(reply.end(due_s + 1.0, failure))
        asked.asked.append(question)
    first, second = trace_of(asked)
    assert (first.at_s, first.reply_s, first.reply_tokens) == (1.0, 2.0, 7)
    assert first.speech_s > 0.5
    assert len(first.pictures) == 1
    assert (second.at_s, second.speech_s, second.pictures) == (3.0, 0.0, ())
    assert second.text_tokens > 1
    assert first.prompt != second.prompt


# --- the command ----------------------------------------------------------------------------------


def test_a_fleet_is_shown_and_written(trace: Path, tmp_path: Path) -> None:
    written = tmp_path / "found.json"
    status, shown = run(
        "--traffic", str(trace), "--gpu", "h100", "--replicas", "2", "--price", "2", "--json", str(written)
    )
    assert status == 0, shown
    assert "4, 0 failed" in shown
    assert "at 70% efficiency for steps and 10% for speech; not measured" in shown
    found = json.loads(written.read_text())
    assert found["num_replicas"] == 2
    hours = found["duration_s"] / 3600
    assert found["replica_h"] == pytest.approx(2 * hours)
    assert found["dollars_per_speech_h"] == pytest.approx(2 * 2 * hours / found["speech_h"])
    assert found["summary"]["num_requests"] == 4


def test_the_fewest_are_found(trace: Path) -> None:
    status, shown = run("--traffic", str(trace), "--gpu", "a100-80", "--target-ms", "5000")
    assert status == 0, shown
    assert "GPUs 1 " in shown


def test_traffic_is_written(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    assert run("--traffic", "day:300:2", "--peak-s", "7200", "--write-traffic", str(path))[0] == 0
    assert read_trace(path) == busiest(day(300, 2), 7200.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--traffic"),
        (["--traffic", "day:0", "--gpu", "h100"], "expected day:N"),
        (["--traffic", "day:x", "--gpu", "h100"], "expected day:N"),
        (["--traffic", "no-such-file", "--gpu", "h100"], "no-such-file"),
        (["--traffic", "day:10"], "expected either this or --costs"),
        (["--traffic", "day:10", "--gpu", "tpu"], "expected one of a100-40"),
        (["--traffic", "day:10", "--gpu", "h100", "--config", "9b"], "expected one of"),
        (["--traffic", "day:10", "--gpu", "h100", "--weights", "int3"], "expected bfloat16 or int8"),
        (["--traffic", "day:10", "--gpu", "h100", "--efficiency", "0"], "expected a share above 0"),
        (["--traffic", "day:10", "--gpu", "h100", "--codec-efficiency", "1.5"], "expected a share above 0"),
        (["--traffic", "day:10", "--gpu", "l4"], "expected more than the"),
        (["--traffic", "day:10", "--gpu", "h100", "--replicas", "0"], "expected positive numbers"),
        (["--traffic", "day:10", "--gpu", "h100", "--replicas", "1,2"], "expected a number or auto"),
        (["--traffic", "day:10", "--gpu", "h100", "--autoscale", "3:1"], "expected MIN:MAX"),
        (["--traffic", "day:10", "--gpu", "h100", "--target-ms", "1"], "no number of replicas reaches it"),
        (["--check", "--gpu", "h100"], "is of no use with --calibrate or --check"),
        (["--check", "--rate", "x"], "expected numbers above 0"),
        (["--check", "--model", "folder"], "needs --codec"),
    ],
)
def test_wrong_flags(arguments: list[str], told: str) -> None:
    status, shown = run(*arguments)
    assert status == 2, shown
    assert told in shown


def test_costs_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text("{}")
    status, shown = run("--traffic", "day:10", "--costs", str(path))
    assert status == 2
    assert "expected a file that --calibrate has written" in " ".join(shown.split())


# --- measured times -------------------------------------------------------------------------------


def test_a_curve_goes_through_its_points_and_on() -> None:
    curve = Curve((1.0, 3.0), (1.0, 2.0), context_s=0.5)
    assert [curve.at(size) for size in (0.5, 1, 2, 3, 5)] == [1.0, 1.0, 1.5, 2.0, 3.0]
    assert curve.at(2, context=4) == 3.5
    assert Curve((2.0,), (3.0,)).at(7) == 3.0


@given(
    alone=st.floats(0, 1), each=st.floats(0, 0.1), context_s=st.floats(0, 1e-3), noise=st.integers(0, 2**32)
)
def test_a_curve_is_found_again(alone: float, each: float, context_s: float, noise: int) -> None:
    rng = np.random.default_rng(noise)
    points = [
        (float(size), float(context), alone + each * size + context_s * context)
        for size in (1, 2, 4, 8, 16, 32)
        for context in rng.integers(1, 500, 4)
    ]
    curve = fit_curve(points)
    for size, context, seconds in points:
        assert curve.at(size, context) == pytest.approx(seconds, rel=0.02, abs=2e-3)


def test_an_engine_is_measured_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not how long it takes, but that it is all there, and that the simulation answers as many requests."""
    monkeypatch.setattr(calibrating, "LOADS", (Clients(1, 2, 0.05), Clients(3, 4)))
    monkeypatch.setattr(calibrating, "MAX_UNITS", 20)
    costs, checked = tmp_path / "costs.json", tmp_path / "checked.json"
    status, shown = run(
        "--check",
        "--calibrate",
        str(costs),
        "--concurrency",
        "2",
        "--num-requests",
        "3",
        "--repeats",
        "2",
        "--json",
        str(checked),
    )
    assert status == 0, shown
    assert "first audio, mean" in shown
    one = json.loads(checked.read_text())["runs"][0]
    assert one["measured"]["num_requests"] == 6
    assert one["simulated"]["num_requests"] == NUM_TIMES * 6
    assert one["simulated"]["failures"] == {}
    assert set(one["figures"]) == {*FIGURES, TYPICAL}
    assert one["figures"]["p95"]["least"] <= one["figures"]["p95"]["most"]
    assert [len(run) for runs in one["first_audio_s"].values() for run in runs] == [3] * 4
    measured = read_costs(costs)
    assert set(measured.passes) >= {
        "bottom prompts",
        "text prompts",
        "text decode",
        "top prompts",
        "top decode",
    }
    assert measured.pass_s(Work("top", 2, 2, 100, 2, is_decode=True)) > 0
    assert json.loads(json.dumps(measured.as_json())) == json.loads(costs.read_text())
    found = simulate(FEW, measured, 1)
    assert all(outcome.measured.failure is None for outcome in found.outcomes)


def test_a_machine_is_found_again_in_what_was_watched() -> None:
    """Pieces of a simulated machine, on which the kinds of work meet by chance."""
    clock, rng, pieces = Clock(), np.random.default_rng(5), list[Piece]()
    slowed = {
        MODEL: {SPEECH: 0.4, PREPARE: 0.2},
        SPEECH: {MODEL: 0.8, SPEECH: 0.6, PREPARE: 0.5},
        PREPARE: {MODEL: 0.3, SPEECH: 0.1, PREPARE: 0.9},
    }
    machine = Machine(clock, slowed)

    def do(
        kind: str, name: str, size: float, work_s: float, then: Callable[[], None], shown: int = 0
    ) -> None:
        begun_s = clock.now_s

        def done() -> None:
            pieces.append(Piece(kind, name, size, 0.0, begun_s, clock.now_s, pictures=shown))
            then()

        machine.begin(kind, work_s, done)

    def nothing() -> None:
        pass

    def steps(left: int) -> None:
        rows = int(rng.integers(1, 9))
        wake_s = Wake(0.05, 0.02).after(machine.rested_s(MODEL))
        do(MODEL, STEP, rows, wake_s + 0.01 + 0.002 * rows, partial(steps, left - 1) if left else nothing)

    def speak(frames: int) -> None:
        wake_s = Wake(0.0, 0.04).after(machine.rested_s(SPEECH))
        do(SPEECH, SPOKEN, frames, wake_s + frames / 1000, nothing)

    for second in range(400):
        clock.at(second + rng.uniform(0, 0.9), partial(steps, 15))
        for _ in range(2):
            frames, seconds, shown = (
                int(rng.integers(40, 200)),
                int(rng.integers(1, 5)),
                int(rng.integers(0, 2)),
            )
            clock.at(second + rng.uniform(0, 1), partial(speak, frames))
            work_s = 0.02 + 0.03 * seconds + 0.01 * shown
            clock.at(second + rng.uniform(0, 1), partial(do, PREPARE, READ, seconds, work_s, nothing, shown))
    while clock.step():
        pass

    found = fit(pieces)
    assert found.curves[STEP].at(4) == pytest.approx(0.018, rel=0.05)
    assert found.curves[SPOKEN].at(100) == pytest.approx(0.1, rel=0.05)
    assert (found.wake[MODEL].alone_s, found.wake[MODEL].per_s) == pytest.approx((0.05, 0.02), abs=0.01)
    assert (found.wake[SPEECH].alone_s, found.wake[SPEECH].per_s) == pytest.approx((0.0, 0.04), abs=0.015)
    assert found.wake[PREPARE].per_s == pytest.approx(0.0, abs=0.015)
    assert found.read == pytest.approx((0.02, 0.03, 0.01), abs=0.004)
    for kind, by in slowed.items():
        assert {other: found.slowed[kind][other] for other in by} == pytest.approx(by, abs=0.12)


def run_of(*firsts_s: float) -> Run:
    """Replies that begin to sound after so long, asked one after the other."""
    asked = Run(duration_s=10.0)
    for number, first_s in enumerate(firsts_s):
        reply = Reply("spoken", float(number))
        reply.add_audio(number + first_s, 2.0)
        asked.replies.append(reply.end(number + first_s, None))
    return asked


def test_a_figure_stands_beside_what_chance_makes_of_it() -> None:
    """A delay that one run of three met is in the tail of the requests, not in that of typical ones."""
    runs = [run_of(0.1, 0.2), run_of(0.1, 0.8), run_of(0.1, 0.2)]
    found = figures(Checked("1/s", runs, [[run_of(0.1, 0.2)] * 3] * 2))
    p95 = found["p95"]
    assert (p95.least, p95.most) == pytest.approx((0.195, 0.765))
    assert p95.measured == pytest.approx(0.65)
    assert p95.simulated == pytest.approx(0.2)
    assert p95.is_within
    assert found[TYPICAL].measured == pytest.approx(found[TYPICAL].simulated) == pytest.approx(0.195)
    assert not figures(Checked("1/s", runs, [[run_of(0.9, 0.9)] * 3] * 2))["median"].is_within


def test_loads_take_turns_and_the_engine_is_measured_around_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down meets all loads alike, and its measure with them."""
    order: list[str] = []

    async def answer(_target: object, _order: object, clients: int, _limits: object) -> Run:
        order.append(str(clients))
        return run_of(0.1, 0.2)

    async def measure() -> None:
        order.append("measured")

    def simulated(*_: object, seed: int, **__: object) -> Run:
        seeds.append(seed)
        return run_of(0.1, 0.2)

    seeds = list[int]()
    monkeypatch.setattr(checking, "closed_loop", answer)
    monkeypatch.setattr(checking, "EngineTarget", lambda engine: engine)
    monkeypatch.setattr(checking, "trace_of", lambda run: run)
    monkeypatch.setattr(checking, "simulated", simulated)
    loads = [Load(concurrency=2), Load(concurrency=4)]
    nothing: Any = None
    found = asyncio.run(
        checking.check(nothing, [], loads, lambda: nothing, measure, num_requests=2, repeats=2, seed=5)
    )
    assert order == ["1", "measured", "2", "4", "measured", "2", "4", "measured"]
    assert [(len(one.measured), len(one.simulated), len(one.simulated[0])) for one in found] == [
        (2, 8, 2)
    ] * 2
    assert seeds[: NUM_TIMES * 2] == list(range(5, 5 + NUM_TIMES * 2)), "each begins at another moment"


def test_slow_moments_are_found_in_what_was_watched_and_hold_up_all_that_is_under_way() -> None:
    """A machine that stands almost still for a tenth of a second in each second."""
    moments = Moments([1.0] * 36 + [0.1] * 4)
    clock, pieces = Clock(), list[Piece]()
    machine = Machine(clock, {}, moments)

    def steps(left: int) -> None:
        begun_s = clock.now_s

        def done() -> None:
            pieces.append(Piece(MODEL, STEP, 1.0, 0.0, begun_s, clock.now_s))
            if left:
                steps(left - 1)

        machine.begin(MODEL, 0.01, done)

    steps(2000)
    while clock.step():
        pass
    taken_s = np.array([piece.own_s for piece in pieces])
    rates = rates_of(pieces, taken_s, np.full(len(pieces), taken_s.mean()))
    assert np.mean(rates) == pytest.approx(1.0)
    slow = np.mean(np.array(rates) < 0.5)
    assert slow == pytest.approx(0.1, abs=0.03)


def test_the_check_fits_a_terminal_of_80_columns() -> None:
    replies = Run(duration_s=10.0)
    for number in range(3):
        reply = Reply("spoken", 0.0)
        reply.add_audio(1234.5 + number, 2.0)
        replies.replies.append(reply.end(1300.0, None))
    checked = [Checked(load, [replies] * 2, [[replies] * 2] * 2) for load in ("16 at a time", "2.5/s")]
    console = Console(width=80, record=True, file=StringIO())
    console.print(check_table(checked, "a model on a machine"))
    lines = console.export_text().splitlines()
    assert sum("first audio, mean" in line and "1235.5" in line for line in lines) == 2
    assert not any("…" in line for line in lines), "nothing is left out"
