"""`antiphon bench serve` measures what is known beforehand: a server that streams by the clock."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from http_server import serving_http
from timed_server import Piece, Script, TimedServer, timed_server
from typer.testing import CliRunner

from antiphon.bench.serving.comparing import change_of
from antiphon.bench.serving.http_client import HttpClient
from antiphon.bench.serving.load import LATE_S, Limits, Run, arrivals, closed_loop, open_loop
from antiphon.bench.serving.processes import run_until_signal
from antiphon.bench.serving.questions import WORKLOAD, Question, mixed, read_workload
from antiphon.bench.serving.reply import Failed, Measured, Reply
from antiphon.bench.serving.report import changed
from antiphon.bench.serving.sound_length import SoundLength
from antiphon.bench.serving.summary import Summary, breaking_rate, summarize
from antiphon.bench.serving.targets import HttpTarget
from antiphon.bench.simulate.traffic import read_trace
from antiphon.cli.app import app
from antiphon.sound.reading import read_audio
from antiphon.sound.writing import encode_audio
from antiphon.types import Image, Speech

SLACK_S = 0.15
"""By how much a busy machine may delay what is sent and noted; nothing is ever early."""
QUESTION = Question(None, "What is two plus two?")
SPOKEN = Script(
    (
        Piece(0.10, text="Four"),
        Piece(0.20, audio_s=0.10),
        Piece(0.50, audio_s=0.20),  # the player has been silent since 0.30: 0.2 s
        Piece(0.55, audio_s=0.50),
        Piece(0.60, text="."),
    ),
    num_tokens=11,
)


def of_script(
    script: Callable[[int], Script] | Script, num_requests: int = 1, concurrency: int = 1, **limits: float
) -> tuple[Run, TimedServer]:
    """A closed loop against a server that answers by the script."""
    by_number = script if callable(script) else lambda _: script
    with timed_server(by_number) as (address, server):

        async def main() -> Run:
            client = HttpClient(address, "secret")
            target = HttpTarget(client, "timed")
            bounds = Limits(num_requests, **limits)
            try:
                return await closed_loop(target, mixed([QUESTION], 0), concurrency, bounds)
            finally:
                client.close()

        return asyncio.run(main()), server


def measured(**figures: object) -> Measured:
    usual = {
        "kind": "typed",
        "due_s": 0.0,
        "ttft_s": 0.1,
        "ttfa_s": 0.2,
        "tpot_s": 0.01,
        "rtf": 0.5,
        "e2el_s": 1.0,
    }
    usual |= {"audio_s": 2.0, "underrun_s": 0.0, "heard_s": 2.2, "num_tokens": 10, "failure": None}
    return Measured(**(usual | figures))  # type: ignore[arg-type]


# --- one reply ------------------------------------------------------------------------------------


def test_times_count_from_when_a_request_was_due() -> None:
    reply = Reply("typed", 10.0)
    reply.add_text(10.2)
    reply.add_text(10.3)
    for now_s, seconds in ((10.5, 0.25), (10.5, 0.25), (11.25, 0.5), (11.5, 1.0)):
        reply.add_audio(now_s, seconds)
    reply.num_tokens = 5
    found = reply.end(12.2)
    assert found.ttft_s == pytest.approx(0.2)
    assert found.ttfa_s == pytest.approx(0.5)
    assert found.tpot_s == pytest.approx(2.0 / 4)
    assert found.rtf == pytest.approx(1.5 / 2.0)
    assert found.e2el_s == pytest.approx(2.2)
    assert found.underrun_s == pytest.approx(0.25)  # dry from 11.0 to 11.25, and then never
    assert found.failure is None


def test_a_player_that_waits_for_as_long_as_the_underrun_plays_without_a_gap() -> None:
    pieces = [(1.0, 0.1), (1.3, 0.1), (1.35, 0.1), (1.9, 0.5)]
    reply = Reply("typed", 0.0)
    for now_s, seconds in pieces:
        reply.add_audio(now_s, seconds)
    underrun_s = reply.end(2.0).underrun_s
    assert underrun_s == pytest.approx(0.6)

    def has_gap(wait_s: float) -> bool:
        ends_s = pieces[0][0] + wait_s
        for now_s, seconds in pieces:
            if now_s > ends_s:
                return True
            ends_s += seconds
        return False

    assert not has_gap(0.6 + 1e-6)
    assert has_gap(0.6 - 1e-6)


def test_a_reply_without_sound_is_a_failure() -> None:
    reply = Reply("typed", 0.0)
    reply.add_text(0.1)
    found = reply.end(0.5)
    assert (found.failure, found.ttfa_s, found.rtf, found.underrun_s) == ("no audio", None, None, None)


def test_the_length_of_sound_in_pieces() -> None:
    import base64

    samples = read_audio(WORKLOAD / "04.flac")[0]
    seconds = len(samples) / 16_000
    wav = encode_audio(samples, 16_000, "wav")
    for content, expected in ((wav, seconds), (wav[44:], len(wav[44:]) / 48_000)):
        text = base64.b64encode(content).decode()
        for step in (7, 4096, len(text)):
            length = SoundLength()
            pieces = [text[start : start + step] for start in range(0, len(text), step)]
            assert sum(map(length.add, pieces)) == pytest.approx(expected)
    length, whole = SoundLength(), base64.b64encode(wav).decode()
    assert [length.add(whole), length.add(whole)] == [pytest.approx(seconds)] * 2


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_known_delays_are_found() -> None:
    run, server = of_script(SPOKEN)
    [found] = run.replies
    assert found.failure is None
    assert found.audio_s == pytest.approx(0.8)
    for value, expected in (
        (found.ttft_s, 0.1),
        (found.ttfa_s, 0.2),
        (found.e2el_s, 0.6),
        (found.rtf, 0.55 / 0.8),
    ):
        assert value is not None
        assert expected <= value < expected + SLACK_S
    assert found.underrun_s == pytest.approx(0.2, abs=0.05)
    assert found.tpot_s == pytest.approx(0.5 / 10, abs=0.01)
    assert found.num_tokens == 11
    [body] = server.bodies
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "What is two plus two?"}]}
    ]
    assert (body["model"], body["stream"], body["modalities"]) == ("timed", True, ["text", "audio"])
    assert server.headers[0]["authorization"] == "Bearer secret"
    summary = summarize(run, "HTTP", concurrency=1)
    assert summary.continuity == {"0": 0.0, "100": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (Script(status=429), "status 429"),
        (Script(status=500), "status 500"),
        (Script((Piece(0.0, text="Hi"),)), "no audio"),
        (Script((Piece(0.0, audio_s=0.1),), finishes=False), "the stream broke off"),
        (Script((Piece(0.0, audio_s=0.1, raw=b"data: [DONE]\n\n"),)), "no finish reason"),
        (Script((Piece(0.0, raw=b'data: {"error": {"code": "overloaded"}}\n\n'),)), "error: overloaded"),
        (Script((Piece(0.0, raw=b"data: {}}\n\n"),)), "an event of another kind"),
        (Script((Piece(0.0, raw=b'data: {"choices": [3]}\n\n'),)), "an event of another kind"),
        (Script((Piece(1.5, audio_s=0.1),)), "timeout"),
    ],
)
def test_failures_are_counted_by_kind(script: Script, failure: str) -> None:
    run, _ = of_script(lambda number: SHORT if number == 1 else script, num_requests=2, timeout_s=0.8)
    assert [reply.failure for reply in run.replies] == [failure, None]
    summary = summarize(run, "HTTP", concurrency=1)
    assert summary.failures == {failure: 1}
    assert summary.ttfa_p95_with_failures_s is None


SHORT = Script((Piece(0.02, audio_s=0.1),))


def test_without_a_server_there_is_no_connection() -> None:
    async def main() -> Run:
        target = HttpTarget(HttpClient("http://127.0.0.1:1/v1"), "timed")
        return await closed_loop(target, mixed([QUESTION], 0), 1, Limits(1))

    assert [reply.failure for reply in asyncio.run(main()).replies] == ["no connection"]


def test_events_may_come_in_any_pieces() -> None:
    text = b': a comment\r\n\r\ndata: {"choices":\ndata: [{"delta": {"content": "Hi"}}]}\r\n\r\n'
    pieces = [Piece(0.0, raw=bytes([byte])) for byte in text]
    run, _ = of_script(Script((*pieces, Piece(0.1, audio_s=0.1))))
    [found] = run.replies
    assert found.failure is None
    assert found.ttft_s is not None


def test_connections_are_used_again() -> None:
    run, server = of_script(SHORT, num_requests=6, concurrency=2)
    assert [reply.failure for reply in run.replies] == [None] * 6
    assert len(server.connections) == 2


# --- loads ----------------------------------------------------------------------------------------


def test_a_closed_loop_has_as_many_requests_under_way_as_it_is_told() -> None:
    run, server = of_script(SHORT, num_requests=7, concurrency=3)
    assert (len(run.replies), server.most_at_once) == (7, 3)


@pytest.mark.slow
def test_a_closed_loop_ends_in_time() -> None:
    run, _ = of_script(Script((Piece(0.1, audio_s=0.1),)), num_requests=1000, duration_s=0.35)
    assert 1 <= len(run.replies) <= 4


class Instant:
    """Answers after `delay_s`, and notes when it was asked."""

    name = "instant"

    def __init__(self, delay_s: float = 0.0, blocks_s: float = 0.0, *, is_heard: bool = False) -> None:
        self.is_heard = is_heard
        self.delay_s, self.blocks_s = delay_s, blocks_s
        self.asked_s: list[float] = []

    async def ask(self, question: Question, reply: Reply) -> None:
        self.asked_s.append(time.perf_counter())
        time.sleep(self.blocks_s)
        await asyncio.sleep(self.delay_s)
        reply.add_audio(time.perf_counter(), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("is_heard", [False, True])
def test_people_listen_before_they_ask_again(is_heard: bool) -> None:
    """To a reply that is there at once, and takes a second to play."""
    target = Instant(is_heard=is_heard)
    asyncio.run(closed_loop(target, mixed([QUESTION], 0), 1, Limits(2)))
    first_s, second_s = target.asked_s
    assert (second_s - first_s >= 1.0) is is_heard


@pytest.mark.slow
def test_an_open_loop_does_not_wait_for_replies() -> None:
    """Ten requests in a fifth of a second, of which each takes half a second."""
    target, due_s = Instant(delay_s=0.5), list(arrivals(50, Limits(10), 3))
    begun_s = time.perf_counter()
    run = asyncio.run(open_loop(target, mixed([QUESTION], 0), 50, Limits(10), 3))
    assert len(run.replies) == 10
    for asked_s, due in zip(target.asked_s, due_s, strict=True):
        assert due <= asked_s - begun_s < due + SLACK_S
    assert run.duration_s < due_s[-1] + 0.5 + 2 * SLACK_S


def test_late_requests_are_counted_and_their_wait_is_not_lost() -> None:
    run = asyncio.run(open_loop(Instant(blocks_s=0.05), mixed([QUESTION], 0), 1000, Limits(5), 0))
    assert run.num_late >= 4
    assert max(reply.ttfa_s or 0.0 for reply in run.replies) > 4 * 0.05 + LATE_S


def test_arrivals_are_a_poisson_process_that_the_seed_decides() -> None:
    times = list(arrivals(2.0, Limits(4000), 1))
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert sum(gaps) / len(gaps) == pytest.approx(0.5, rel=0.05)
    assert sum(gap > 0.5 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)
    assert times == list(arrivals(2.0, Limits(4000), 1)) != list(arrivals(2.0, Limits(4000), 2))
    within = list(arrivals(2.0, Limits(None, 100.0), 1))
    assert within == [due for due in times if due <= 100.0]


def test_an_error_ends_a_run() -> None:
    class Broken(Instant):
        async def ask(self, question: Question, reply: Reply) -> None:
            raise KeyError("a bug")

    questions = mixed([QUESTION], 0)
    for loop in (
        closed_loop(Broken(), questions, 4, Limits(8)),
        open_loop(Broken(), questions, 100.0, Limits(8), 0),
    ):
        with pytest.raises(KeyError):
            asyncio.run(loop)


# --- what it amounts to ---------------------------------------------------------------------------


def test_a_summary() -> None:
    replies = [measured(ttfa_s=n / 100, underrun_s=(n % 4) / 20, kind=f"k{n % 2}") for n in range(1, 101)]
    replies += [measured(failure="timeout", ttfa_s=None), measured(failure="timeout")]
    summary = summarize(Run(replies, duration_s=50.0, num_late=3), "HTTP", rate=2.0)
    spread = summary.spreads["ttfa_s"]
    assert [spread.mean, spread.p50] == pytest.approx([0.505, 0.505])
    assert [spread.p95, spread.p99] == pytest.approx([0.9505, 0.9901])
    assert (summary.requests_per_s, summary.audio_s_per_s) == (2.0, 4.0)
    assert summary.continuity == {"0": 0.25, "100": 0.75}
    assert (summary.failures, summary.num_failed, summary.num_late) == ({"timeout": 2}, 2, 3)
    assert sorted(summary.first_audio_by_kind) == ["k0", "k1"]
    assert summary.ttfa_p95_with_failures_s == pytest.approx(0.97)


def turn(*firsts_s: float) -> Run:
    return Run([measured(ttfa_s=first_s) for first_s in firsts_s], duration_s=10.0)


def test_targets_that_took_turns_are_compared_turn_by_turn() -> None:
    """One that is always a tenth later is so for certain, however much the turns differ among themselves."""
    theirs = [turn(0.1, 0.3), turn(0.5, 0.7), turn(0.2, 0.9), turn(0.3, 0.3)]
    ours = [turn(*(1.1 * reply.ttfa_s for reply in run.replies if reply.ttfa_s)) for run in theirs]
    mean, median, speech = change_of("1/s", ("a", "b"), ours, theirs)
    for change in (mean, median):
        assert change.mean == pytest.approx(0.1)
        assert (change.least, change.most) == pytest.approx((0.1, 0.1))
    assert speech.mean == pytest.approx(0.0)
    assert changed(mean) == "a, 1/s: first audio, mean +10.0% against b (95 %: +10.0% to +10.0%, 4 turns)"


def test_a_difference_that_turns_do_not_agree_on_is_not_certain() -> None:
    theirs = [turn(0.5)] * 6
    ours = [turn(0.5 * factor) for factor in (0.8, 1.3, 0.9, 1.1, 1.25, 0.85)]
    mean = change_of("1/s", ("a", "b"), ours, theirs)[0]
    assert mean.least < 0 < mean.most
    assert change_of("1/s", ("a", "b"), ours[:2], theirs[:2]) == []


def test_the_rate_that_breaks_the_limit() -> None:
    def at(rate: float | None, ttfa_s: float, num_failed: int = 0) -> Summary:
        replies = [measured(ttfa_s=ttfa_s)] * 20 + [measured(failure="timeout")] * num_failed
        return summarize(Run(replies, 1.0), "HTTP", rate=rate, concurrency=None if rate else 4)

    fine, slow = at(1.0, 0.4), at(4.0, 0.6)
    assert breaking_rate([fine, slow, at(8.0, 2.0)], 0.5) == 4.0
    assert breaking_rate([fine, at(None, 9.0)], 0.5) is None
    assert breaking_rate([fine, at(2.0, 0.1, num_failed=1)], 0.5) is None
    assert breaking_rate([fine, at(2.0, 0.1, num_failed=2)], 0.5) == 2.0


# --- the workload ---------------------------------------------------------------------------------


def test_the_workload_mixes_all_kinds_by_a_seed() -> None:
    questions = read_workload()
    assert {q.kind for q in questions} == {"spoken", "spoken+picture", "typed", "typed+picture"}
    assert sum(path.stat().st_size for path in WORKLOAD.iterdir()) < 1_000_000
    size = len(questions)
    asked = list(islice(mixed(questions, 1), 2 * size))
    assert asked == list(islice(mixed(questions, 1), 2 * size)) != list(islice(mixed(questions, 2), 2 * size))
    assert set(asked[:size]) == set(asked[size:]) == set(questions)


def test_a_question_is_the_same_for_the_server_and_for_the_engine() -> None:
    for question in read_workload():
        content = [part["type"] for part in question.content()]
        names = {Image: "image_url", Speech: "input_audio", str: "text"}
        parts = question.request().content
        assert isinstance(parts, list)
        assert [names[type(part)] for part in parts] == content
        assert len(content) == 1 + (question.picture is not None)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def address() -> Iterator[str]:
    with timed_server(lambda _: SHORT) as (address, _):
        yield address


def bench(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bench", "serve", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join((result.output + str(result.exception or "")).split())


@pytest.mark.slow
def test_the_command_shows_and_writes_what_it_found(address: str, tmp_path: Path) -> None:
    out, plot = tmp_path / "found.json", tmp_path / "found.png"
    loads = ["--concurrency", "1,2", "--rate", "20", "--num-requests", "4"]
    status, shown = bench("--base-url", address, *loads, "--json", str(out), "--plot", str(plot))
    assert status == 0, shown
    assert "first audio" in shown
    assert "p95 of the time to first audio exceeds 500 ms at no rate up to 20/s" in shown
    record = json.loads(out.read_text())
    assert [(run["concurrency"], run["rate"], run["num_requests"]) for run in record["runs"]] == [
        (1, None, 4),
        (2, None, 4),
        (None, 20.0, 4),
    ]
    assert record["first_rate_beyond"] is None
    assert record["command"].startswith("antiphon bench serve --base-url http://127.0.0.1:")
    assert record["runs"][0]["spreads"]["ttfa_s"]["p50"] >= 0.02
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_what_it_asked_as_a_trace(address: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    asked = ["--base-url", address, "--num-requests", "5", "--trace", str(trace)]
    status, shown = bench(*asked, "--rate", "20")
    assert status == 0, shown
    found = read_trace(trace)
    assert len(found) == 5
    assert found[0].at_s < found[-1].at_s
    for arrival in found:
        assert arrival.reply_s > 0
        assert arrival.speech_s > 0 or arrival.text_tokens > 0
    status, shown = bench(*asked, "--concurrency", "1,2")
    assert status == 2
    assert "one run of one load" in shown


def test_a_server_that_answers_nothing_is_an_error() -> None:
    with timed_server(lambda _: Script(status=500)) as (address, _):
        status, shown = bench("--base-url", address, "--concurrency", "1")
    assert status == 1
    assert "HTTP: no request was answered: status 500" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url", "ftp://here"], "expected http://HOST:PORT"),
        (["--rate", "0"], "expected numbers above 0 separated by commas, got '0'"),
        (["--rate", "1,nan"], "expected numbers above 0"),
        (["--concurrency", "1,x"], "expected positive numbers separated by commas"),
        (["--workload", "/nowhere"], "/nowhere"),
        (["--extra-body", "[]"], "expected a JSON object"),
        (["--audio-format", "mp3"], "expected pcm16 or wav"),
        (["--max-num-seqs", "4"], "needs --in-process or --compare"),
        (["--in-process", "--compare"], "does both already"),
        (["--in-process", "--base-url", "http://here"], "is of no use"),
        (["--in-process", "--codec", "x"], "needs --model"),
        (["--in-process", "--model", "x"], "needs --codec"),
        (["--plot", "x.xyz"], "expected a file named"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    status, shown = bench(*arguments)
    assert status == 2
    assert message in shown


@pytest.mark.slow
def test_an_engine_in_this_process(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    status, shown = bench(
        *("--in-process", "--concurrency", "2", "--num-requests", "4", "--num-warmups", "1"),
        *("--device", "cpu", "--json", str(out)),
    )
    assert status == 0, shown
    [run] = json.loads(out.read_text())["runs"]
    assert (run["target"], run["num_requests"], run["failures"]) == ("in process", 4, {})
    assert 0 < run["spreads"]["ttfa_s"]["p50"] < run["spreads"]["e2el_s"]["p50"]
    assert run["audio_s_per_s"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_a_server_beside_an_engine(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    status, shown = bench(
        *("--compare", "--concurrency", "2", "--num-requests", "2", "--num-warmups", "1", "--repeats", "2"),
        *("--device", "cpu", "--json", str(out), "--api-key", "secret"),
    )
    assert status == 0, shown
    assert "HTTP less in process" in shown
    runs = json.loads(out.read_text())["runs"]
    assert [(run["target"], run["num_requests"], run["failures"]) for run in runs] == [
        ("HTTP", 4, {}),
        ("in process", 4, {}),
    ]
    spoken_s = [run["audio_s_per_s"] * run["duration_s"] for run in runs]
    assert spoken_s[0] == pytest.approx(spoken_s[1], rel=0.02)  # the same replies
    for run in runs:
        assert 0 < run["spreads"]["ttft_s"]["p50"] < run["spreads"]["ttfa_s"]["p50"]
        assert run["spreads"]["tpot_s"]["p50"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_a_server_is_spoken_to(tmp_path: Path) -> None:
    """Replies are due when all has been said, so none begins before that."""
    out = tmp_path / "found.json"
    with serving_http() as server:
        status, shown = bench(
            *("--realtime", "--base-url", f"{server.address}/v1", "--concurrency", "2"),
            *("--num-requests", "2", "--num-warmups", "0", "--json", str(out)),
        )
    assert status == 0, shown
    assert "less in process" not in shown
    runs = json.loads(out.read_text())["runs"]
    assert [(run["target"], run["num_requests"], run["failures"]) for run in runs] == [
        ("commit", 2, {}),
        ("server vad", 2, {}),
        ("semantic vad", 2, {}),
    ]
    for run in runs:
        assert run["spreads"]["ttfa_s"]["p50"] > 0
        assert run["audio_s_per_s"] > 0
    assert runs[1]["spreads"]["ttft_s"]["p50"] > 0.4, "the server waits for half a second of silence"


@pytest.mark.parametrize("other", ["--in-process", "--compare", "--rate"])
def test_only_a_server_can_be_spoken_to(other: str) -> None:
    status, shown = bench("--realtime", other, *(["1"] if other == "--rate" else []))
    assert status == 2
    assert "--realtime" in shown


def test_a_signal_ends_a_measurement_and_then_does_what_it_did() -> None:
    taken, has_ended = [], []
    before = signal.signal(signal.SIGTERM, lambda number, _: taken.append(number))

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        finally:
            has_ended.append(True)

    try:
        with pytest.raises(asyncio.CancelledError):
            run_until_signal(main())
        assert (taken, has_ended) == ([signal.SIGTERM], [True])
        os.kill(os.getpid(), signal.SIGTERM)
        assert taken == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_failure_has_a_kind() -> None:
    assert Failed("timeout").kind == "timeout"
