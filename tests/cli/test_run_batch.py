"""`antiphon run-batch`: each line has one result, whatever it holds and however often the run is killed."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Child, antiphon
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.errors import AntiphonError
from antiphon.files.results_file import ResultsFile
from antiphon.server.batch import RESULT_PREFIX, Finished, answer_batch, read_result

URL = "/v1/chat/completions"
ASSETS = Path(__file__).parents[2] / "runtime" / "assets"


def line(custom_id: object, url: str = URL, body: object = None, **fields: object) -> bytes:
    content = {"custom_id": custom_id, "method": "POST", "url": url, "body": body or {"n": custom_id}}
    return json.dumps(content | fields).encode() + b"\n"


class Echo:
    """Answers with the body that it was sent, after a moment; `statuses` are used up first."""

    def __init__(self, *statuses: int, delay_s: float = 0.0) -> None:
        self.statuses = list(statuses)
        self.delay_s = delay_s
        self.asked: list[Any] = []
        self.running = self.most_at_once = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.asked.append(body)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await asyncio.sleep(self.delay_s)
        self.running -= 1
        status = self.statuses.pop(0) if self.statuses else 200
        headers = [(b"x-request-id", b"req_1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        content = json.dumps({"echo": body}).encode()
        await send({"type": "http.response.body", "body": content[:5], "more_body": True})
        await send({"type": "http.response.body", "body": content[5:]})


def answered(
    lines: list[bytes | None],
    echo: Echo | None = None,
    finished: Finished | None = None,
    concurrency: int = 4,
) -> list[dict[str, Any]]:
    """The results, as they were written."""
    results: list[bytes] = []

    async def given() -> AsyncIterator[bytes | None]:
        for each in lines:
            yield each

    work = answer_batch(echo or Echo(), given(), results.append, concurrency=concurrency, finished=finished)
    asyncio.run(asyncio.wait_for(work, 60))
    assert all(result.endswith(b"\n") and result.startswith(RESULT_PREFIX) for result in results)
    return [json.loads(result) for result in results]


# --- lines ----------------------------------------------------------------------------------------


def test_results_have_openais_form() -> None:
    [found] = answered([line("a", body={"n": 1})])
    assert found.pop("id").startswith("batch_req_")
    assert found == {
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req_1", "body": {"echo": {"n": 1}}},
        "error": None,
    }


def test_a_bad_request_has_the_status_and_the_body_of_the_server() -> None:
    [found] = answered([line("a")], Echo(400))
    assert (found["response"]["status_code"], found["error"]) == (400, None)


@pytest.mark.parametrize(
    ("bad", "code", "custom_id"),
    [
        (b"{not json}\n", "invalid_json", None),
        (b"\xff\xfe\n", "invalid_json", None),
        (b"[" * 100_000 + b"\n", "invalid_json", None),
        (None, "line_too_long", None),
        (b"[1]\n", "invalid_request", None),
        (line(3), "invalid_custom_id", None),
        (line("good"), "duplicate_custom_id", "good"),
        (line("b", url="/v1/other"), "invalid_url", "b"),
        (line("b", url=["x"]), "invalid_url", "b"),  # type: ignore[arg-type]
        (line("b", method="GET"), "invalid_method", "b"),
        (line("b", body=[1]), "invalid_body", "b"),
        (line("b", priority=1), "unknown_parameter", "b"),
        (line("b", body={"stream": True}), "unsupported_parameter", "b"),
        (line("\ud800", method="GET"), "invalid_method", "\ud800"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_bad_line_harms_only_itself(bad: bytes | None, code: str, custom_id: str | None) -> None:
    lines = [line("good"), bad, b"\n", line("last").rstrip(b"\n")]
    found = {(each["custom_id"], each["response"] is None): each for each in answered(lines)}
    assert len(found) == 3
    for good in ("good", "last"):
        assert found[good, False]["response"]["body"] == {"echo": {"n": good}}
    refused = found[custom_id, True]
    assert refused["error"]["code"] == code
    assert refused["error"]["message"]
    assert len({each["id"] for each in found.values()}) == 3


def test_many_are_answered_at_a_time_and_no_more() -> None:
    echo = Echo(delay_s=0.02)
    found = answered([line(str(n)) for n in range(20)], echo, concurrency=5)
    assert (len(found), echo.most_at_once) == (20, 5)


def test_input_is_not_read_ahead() -> None:
    """What is in memory is bounded, whatever the file's length."""
    num_read, most_ahead, echo = 0, 0, Echo(delay_s=0.001)
    results: list[bytes] = []

    async def given() -> AsyncIterator[bytes]:
        nonlocal num_read, most_ahead
        for number in range(200):
            num_read += 1
            most_ahead = max(most_ahead, num_read - len(results))
            yield line(str(number))

    asyncio.run(answer_batch(echo, given(), results.append, concurrency=4))
    assert len(results) == 200
    assert most_ahead <= 4


@pytest.mark.slow
def test_a_request_that_meets_a_full_queue_is_sent_again() -> None:
    echo = Echo(429)
    [found] = answered([line("a")], echo)
    assert (found["response"]["status_code"], len(echo.asked)) == (200, 2)


def test_a_dead_engine_gives_no_results() -> None:
    with pytest.raises(AntiphonError, match="the engine has failed"):
        answered([line("a"), line("b")], Echo(503, 503))


# --- the file of results --------------------------------------------------------------------------


def resumed(path: Path) -> Finished:
    finished = Finished()
    with ResultsFile(path) as results:
        results.resume(lambda each: read_result(each, finished), RESULT_PREFIX)
    return finished


def written(path: Path, lines: list[bytes | None]) -> list[dict[str, Any]]:
    """Answers what has no result yet; all results that there are then."""
    finished = Finished()

    async def given() -> AsyncIterator[bytes | None]:
        for each in lines:
            yield each

    with ResultsFile(path) as results:
        results.resume(lambda each: read_result(each, finished), RESULT_PREFIX)
        asyncio.run(answer_batch(Echo(), given(), results.write, concurrency=4, finished=finished))
    return [json.loads(each) for each in path.read_bytes().splitlines()]


@pytest.mark.slow
def test_a_run_goes_on_from_every_byte(tmp_path: Path) -> None:
    """Wherever the file of results ends, each line has one result in the end."""
    path = tmp_path / "results.jsonl"
    lines: list[bytes | None] = [line("a"), b"{\n", line("a"), line("b"), None, line("c", url="/x")]
    whole = written(path, lines)
    content = path.read_bytes()
    expected = sorted(map(json.dumps, whole))
    assert len(expected) == 6
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert sorted(map(json.dumps, written(path, lines))) == expected
    assert written(path, lines) == [json.loads(each) for each in path.read_bytes().splitlines()]


def test_an_answer_is_known_by_its_custom_id_and_lines_may_be_added(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    written(path, [line("a"), b"{\n", line("b")])
    found = written(path, [line("b"), b"{\n", line("a"), line("c")])
    assert Counter(each["custom_id"] for each in found) == {"a": 1, "b": 1, "c": 1, None: 1}


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"id": 3}\n', b'{"a": 1}'])
def test_a_file_of_another_kind_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(OSError, match="line 1 is not a result"):
        resumed(path)
    assert path.read_bytes() == content


def test_a_file_in_use_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another run is writing to it"):
            ResultsFile(path)
    with pytest.raises(OSError, match="expected a regular file"):
        ResultsFile(Path("/dev/null"))


PROGRAM = """
import asyncio, json, random, sys
from pathlib import Path
from antiphon.files.results_file import ResultsFile
from antiphon.server.batch import RESULT_PREFIX, Finished, answer_batch, read_result

async def app(scope, receive, send):
    body = (await receive())["body"]
    await asyncio.sleep(random.random() / 50)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

async def lines():
    with open(sys.argv[1], "rb") as file:
        for line in file:
            yield line

finished = Finished()
with ResultsFile(Path(sys.argv[2])) as results:
    results.resume(lambda line: read_result(line, finished), RESULT_PREFIX)
    asyncio.run(answer_batch(app, lines(), results.write, concurrency=8, finished=finished))
"""


@pytest.mark.slow
def test_nothing_is_lost_or_made_twice_when_a_run_is_killed_again_and_again(tmp_path: Path) -> None:
    requests, results, rng = tmp_path / "requests.jsonl", tmp_path / "results.jsonl", random.Random(0)
    good = {f"request-{n}": {"n": n, "filling": "x" * rng.randrange(3000)} for n in range(600)}
    lines = [line(custom_id, body=body) for custom_id, body in good.items()]
    bad = [b"{broken\n", line("request-3"), line("elsewhere", url="/v1/elsewhere")]
    for each in bad:
        lines.insert(rng.randrange(10, len(lines)), each)
    requests.write_bytes(b"".join(lines))
    command = [sys.executable, "-c", PROGRAM, str(requests), str(results)]
    for until in (60, 200, 350, 500):
        process = subprocess.Popen(command)
        while process.poll() is None and num_lines(results) < until:
            time.sleep(0.005)
        assert process.poll() is None, "it was to be killed before its end"
        process.kill()
        process.wait()
        assert until <= num_lines(results) < len(lines)
        with results.open("ab") as file:  # torn in the middle of a write
            file.write(RESULT_PREFIX + b"0123")
    subprocess.run(command, check=True, timeout=60)
    found = [json.loads(each) for each in results.read_bytes().splitlines()]
    assert len(found) == len({each["id"] for each in found}) == len(good) + len(bad)
    bodies = {each["custom_id"]: each["response"]["body"] for each in found if each["response"]}
    assert bodies == good
    assert Counter(each["error"]["code"] for each in found if each["error"]) == {
        "invalid_json": 1,
        "duplicate_custom_id": 1,
        "invalid_url": 1,
    }


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "/nowhere", "-o", "out"], "--input-file"),
        (["-i", "/", "-o", "out"], "expected a file or a pipe"),
        (["-i", "in", "-o", "/nowhere/out"], "--output-file"),
        (["-i", "in", "-o", "/dev/null"], "expected a regular file"),
        (["-i", "in", "-o", "in"], "is the input, too"),
        (["-i", "in", "-o", "notes"], "line 1 is not a result"),
        (["-i", "in", "-o", "out", "--codec", "x"], "needs --model"),
        (["-i", "in"], "Missing option"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").write_bytes(line("a"))
    Path("notes").write_text("my notes\n")
    result = CliRunner().invoke(app, ["run-batch", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert Path("in").read_bytes() == line("a")


def chat(custom_id: str, *content: dict[str, Any], **fields: Any) -> bytes:
    return line(custom_id, body={"messages": [{"role": "user", "content": list(content)}]} | fields)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.slow
@pytest.mark.long
def test_the_packaged_model_answers_a_batch(tmp_path: Path) -> None:
    question = base64.b64encode((ASSETS / "demo" / "question.wav").read_bytes()).decode()
    picture = base64.b64encode((ASSETS / "demo" / "shapes.png").read_bytes()).decode()
    lines = [
        chat("sum", text("How much is two plus three?")),
        chat("unknown", text("Hi"), temprature=0),
        b"{broken\n",
        line("response", url="/v1/responses", body={"input": "Hi"}),
        chat(
            "seen and heard",
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
            {"type": "input_audio", "input_audio": {"data": question, "format": "wav"}},
            modalities=["text", "audio"],
            audio={"voice": "alloy", "format": "wav"},
        ),
    ]
    out = tmp_path / "results.jsonl"
    ended = antiphon("run-batch", "-i", "-", "-o", str(out), "--device", "cpu", stdin=b"".join(lines))
    assert (ended.status, ended.out.decode()) == (0, f"{out}: 3 answered, 1 failed, 1 refused\n")
    found = {each["custom_id"]: each for each in map(json.loads, out.read_text().splitlines())}
    assert found[None]["error"]["code"] == "invalid_json"
    assert found["unknown"]["response"]["status_code"] == 400
    assert found["unknown"]["response"]["body"]["error"]["param"] == "temprature"
    assert found["sum"]["response"]["request_id"].startswith("req_")
    assert "five" in found["sum"]["response"]["body"]["choices"][0]["message"]["content"]
    assert found["response"]["response"]["body"]["object"] == "response"
    message = found["seen and heard"]["response"]["body"]["choices"][0]["message"]
    assert "circle" in message["audio"]["transcript"]
    assert base64.b64decode(message["audio"]["data"]).startswith(b"RIFF")
    ended = antiphon("run-batch", "-i", "-", "-o", str(out), "--device", "cpu", stdin=b"".join(lines))
    assert (ended.status, ended.out.decode()) == (0, f"{out}: 5 finished\n")


@pytest.mark.slow
@pytest.mark.long
def test_a_signal_ends_a_batch_that_the_same_command_goes_on_with(tmp_path: Path) -> None:
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    names = [f"request-{n}" for n in range(40)]
    requests.write_bytes(b"".join(chat(name, text("How much is two plus three?")) for name in names))
    command = ["run-batch", "-i", str(requests), "-o", str(out), "--device", "cpu", "--max-num-seqs", "1"]
    child = Child(*command)
    while num_lines(out) < 3:
        time.sleep(0.01)
    child.signal(signal.SIGTERM)
    ended = child.end()
    assert ended.status == 143
    num_before = num_lines(out)
    assert 3 <= num_before < len(names)
    ended = antiphon(*command)
    told = f"{out}: {len(names) - num_before} answered, {num_before} finished\n"
    assert (ended.status, ended.out.decode()) == (0, told)
    found = [json.loads(each) for each in out.read_text().splitlines()]
    assert sorted(each["custom_id"] for each in found) == sorted(names)
    assert all(each["response"]["status_code"] == 200 for each in found)
