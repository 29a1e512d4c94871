"""A run: resumed, refused, over a server, judged, compared and swept, all of the packaged model."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from http_server import Served, serving_http
from judge_server import Messages, judging_http
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.engine.engine import Engine
from antiphon.errors import ConfigError
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case, Turn
from antiphon.evaluation.comparison import compare
from antiphon.evaluation.engine_answers import EngineAnswers
from antiphon.evaluation.evaluating import Stages, answering_of, evaluate
from antiphon.evaluation.judge import Judge
from antiphon.evaluation.listener import listener
from antiphon.evaluation.options import Options
from antiphon.evaluation.packaged import packaged_cases
from antiphon.evaluation.rubrics import rubric_of
from antiphon.evaluation.run_folder import RunFolder
from antiphon.evaluation.server_answers import ServerAnswers, base_url_of
from antiphon.evaluation.sound_quality import scores
from antiphon.evaluation.variant import variant
from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample
from antiphon.sound.writing import write_audio
from antiphon.types import Message, Request, Speech

UNITS = 60
DEAF = Stages(listener="none")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving_http() as served:
        yield served


class Killed(BaseException):
    """A run ends here, as by a signal."""


class Until:
    """Answers as another does, and is killed after some."""

    def __init__(self, inner: Any, num: int) -> None:
        self._inner = inner
        self._num = num
        self.asked: list[str] = []

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        self.asked = [case.case_id for case in cases]
        for number, answered in enumerate(self._inner.answers(cases)):
            if number == self._num:
                raise Killed
            yield answered


def files_of(folder: Path) -> dict[str, Any]:
    """What a run has come to."""
    names = ("report.json", "scores.json", *(f"audio/{path.name}" for path in (folder / "audio").iterdir()))
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(tmp_path: Path, engine: Engine) -> None:
    """Twice killed, once within a line, and its cases are not asked again."""
    options = Options("spoken-qa", max_units=UNITS)
    cases = packaged_cases("spoken-qa", tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    answering = answering_of(engine, options)
    evaluate(whole, cases, options, {}, answering, engine=engine, stages=DEAF)
    for num in (1, 2):
        stopped = Until(answering, num)
        with pytest.raises(Killed):
            evaluate(broken, cases, options, {}, stopped, engine=engine, stages=DEAF)
        with (broken / "answers.jsonl").open("ab") as file:
            file.write(b'{"id": "torn", "te')
    last = Until(answering, len(cases))
    evaluate(broken, cases, options, {}, last, engine=engine, stages=DEAF)
    assert len(last.asked) == len(cases) - 3
    assert files_of(broken) == files_of(whole)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    cases = packaged_cases("vqa", tmp_path)
    folder = RunFolder(tmp_path / "run")
    folder.open(cases, Options("vqa"), {"quantization": None})
    folder.open(cases, Options("vqa"), {"quantization": None})
    with pytest.raises(ConfigError, match="quantization None, and 'int8' is asked for: give another --out"):
        folder.open(cases, Options("vqa"), {"quantization": "int8"})
    with pytest.raises(ConfigError, match="rule 'exact', and 'choice' is asked for"):
        folder.open(cases, Options("vqa", rule="choice"), {"quantization": None})
    with pytest.raises(ConfigError, match="over 8 other cases"):
        folder.open(cases[:2], Options("vqa"), {"quantization": None})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(ConfigError, match="expected an empty folder or one of a run"):
        RunFolder(tmp_path / "other").open(cases, Options("vqa"), {})


@pytest.mark.slow
@pytest.mark.parametrize("task", ["asr", "spoken-qa", "visit", "vqa", "tts"])
def test_a_server_answers_as_the_engine_does(
    task: str, tmp_path: Path, engine: Engine, served: Served
) -> None:
    options = Options(task, max_units=UNITS)
    cases = packaged_cases(task, tmp_path)[:3]
    over_http = ServerAnswers(served.address, options, api_key=None, concurrency=2)
    here = {case.case_id: answer for case, answer in answering_of(engine, options).answers(cases)}
    there = {case.case_id: answer for case, answer in over_http.answers(cases)}
    assert set(here) == set(there) == {case.case_id for case in cases}
    for case_id, one in here.items():
        other = there[case_id]
        assert one.error is None and other.error is None
        assert (other.text, other.transcript, other.rate_hz) == (one.text, one.transcript, one.rate_hz)
        if task not in ("asr", "tts"):
            assert other.finish == one.finish in ("stop", "length")
        assert (one.text or one.transcript) != ""
        if one.samples is not None:
            assert other.samples is not None and len(other.samples) == len(one.samples)
            assert abs(other.samples - one.samples.clip(-1, 1)).max() < 2 / 2**15, "16 bits apart"


@pytest.mark.slow
def test_a_server_ends_turns_as_the_engine_does(tmp_path: Path, engine: Engine, served: Served) -> None:
    options = Options("duplex", silence_ms=400)
    cases = packaged_cases("duplex", tmp_path)[:5]
    over_http = ServerAnswers(served.address, options, api_key=None, concurrency=3)
    here = {case.case_id: answer.ends_s for case, answer in answering_of(engine, options).answers(cases)}
    there = {case.case_id: answer.ends_s for case, answer in over_http.answers(cases)}
    assert there == here
    assert max(map(len, here.values())) > 1, "some of them are cut"
    report = evaluate(tmp_path / "run", cases, options, {}, over_http, engine=None)
    assert [figure.key for figure in report.figures] == ["cut", "missed", "delay_ms"]


@pytest.mark.slow
def test_a_server_ends_turns_by_what_it_reads(tmp_path: Path, served: Served) -> None:
    """What it has read by when depends on its machine: that it ends them, and none twice after the end."""
    options = Options("duplex", detection="semantic_vad")
    cases = packaged_cases("duplex", tmp_path)[:2]
    over_http = ServerAnswers(served.address, options, api_key=None, concurrency=2)
    for case, answer in over_http.answers(cases):
        assert answer.error is None and case.speech_end_s is not None
        assert sum(end_s >= case.speech_end_s for end_s in answer.ends_s) == 1


@pytest.mark.slow
def test_recordings_of_any_rate_are_sent(tmp_path: Path, served: Served) -> None:
    options = Options("duplex")
    [case] = packaged_cases("duplex", tmp_path)[:1]
    samples, rate_hz = read_audio(case.audio)
    write_audio(tmp_path / "other.wav", resample(samples, rate_hz, 44100), 44100)
    cases = [case, dataclasses.replace(case, case_id="other", audio=tmp_path / "other.wav")]
    over_http = ServerAnswers(served.address, options, api_key=None, concurrency=2)
    there = {each.case_id: answer.ends_s for each, answer in over_http.answers(cases)}
    assert len(there["other"]) == len(there[case.case_id])
    assert there["other"] == pytest.approx(there[case.case_id], abs=0.05)


@pytest.mark.slow
def test_faults_of_recordings_are_theirs_alone(tmp_path: Path, served: Served) -> None:
    [case] = packaged_cases("duplex", tmp_path)[:1]
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    bad = dataclasses.replace(case, case_id="bad", audio=tmp_path / "bad.wav")
    over_http = ServerAnswers(served.address, Options("duplex"), api_key=None, concurrency=2)
    there = {each.case_id: answer for each, answer in over_http.answers([bad, case])}
    assert there["bad"].error is not None and "audio" in there["bad"].error
    assert there[case.case_id].error is None
    unknown = ServerAnswers(served.address, Options("duplex", detection="never"), api_key=None, concurrency=1)
    [(_, answer)] = unknown.answers([case])
    assert answer.error is not None and "turn_detection" in answer.error


@pytest.mark.slow
def test_dialogues(tmp_path: Path, engine: Engine, served: Served) -> None:
    """The model's own replies are taken, or those that are given; only the last is spoken, and scored."""
    [first, *_] = packaged_cases("asr", tmp_path)
    told = Turn(text="My name is Peter.")
    given = (told, Turn(first.audio, text=first.references[0], reply="Hello, Tom."))
    question = "What is my name?"
    cases = [
        Case("own", "talk", text=question, references=("Peter",), rule="words", turns=(told,)),
        Case("given", "talk", text=question, references=("Tom",), rule="words", turns=given),
        Case("alone", "talk", text=question, references=("Peter",), rule="words"),
    ]
    options = Options("spoken-qa", max_units=UNITS)
    answering = answering_of(engine, options)
    report = evaluate(tmp_path / "run", cases, options, {}, answering, engine=None, stages=DEAF)
    scored = {each.case.case_id: each for each in report.scored}
    assert [scored[name].counts["text"][0] for name in ("own", "alone")] == [1, 0]
    assert first.audio is not None
    [own] = engine.generate([Request(told.text)])
    messages = [
        *(Message("user", told.text), Message("assistant", own.text)),
        *(Message("user", [Speech(first.audio)]), Message("assistant", "Hello, Tom.")),
        Message("user", question),
    ]
    [direct] = engine.generate([Request(messages=messages)])
    assert scored["given"].text == direct.text
    over_http = ServerAnswers(served.address, options, api_key=None, concurrency=2)
    here = {case.case_id: answer for case, answer in answering.answers(cases)}
    there = {case.case_id: answer for case, answer in over_http.answers(cases)}
    for name, one in here.items():
        assert (there[name].text, there[name].finish) == (one.text, one.finish)
        assert one.samples is not None and len(one.samples)


@pytest.mark.slow
def test_speech_at_once_has_the_same_words(tmp_path: Path, engine: Engine) -> None:
    """Its sound is made with all of its context, so it is another than that in chunks."""
    options = Options("spoken-qa", ask="text", max_units=UNITS)
    [case] = packaged_cases("spoken-qa", tmp_path)[:1]
    answers = [
        next(EngineAnswers(engine, options, in_chunks=in_chunks).answers([case]))[1]
        for in_chunks in (True, False)
    ]
    assert answers[0].text == answers[1].text != ""
    one, other = (answer.samples for answer in answers)
    assert one is not None and other is not None and len(one) == len(other)
    assert abs(one - other).max() > 0


@pytest.mark.slow
def test_faults_of_cases_are_theirs_alone(tmp_path: Path, engine: Engine) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    good = packaged_cases("asr", tmp_path)[0]
    cases = [Case("bad", "packaged", bad, references=("nothing",)), good]
    options = Options("asr")
    report = evaluate(
        tmp_path / "run", cases, options, {}, answering_of(engine, options), engine=engine,
        stages=Stages(timed=2),
    )  # fmt: skip
    [failed] = report.failures
    assert failed.case.case_id == "bad" and failed.error is not None and "audio" in failed.error
    keys = {figure.key: figure for figure in report.figures}
    assert keys["time_ms"].num_cases == 1 and keys["time_ms"].value > 0
    assert any("tokenizer is timed apart" in note for note in report.notes)
    shown = (tmp_path / "run" / "report.html").read_text()
    assert 'src="shown/' in shown and "no sound" not in shown


class Judging:
    """A judge's server in place of openai's client."""

    def __init__(self, *raws: str) -> None:
        self.raws = list(raws)
        self.prompts: list[str] = []

    def create(self, *, messages: list[dict[str, str]], **_: Any) -> Any:
        self.prompts.append(messages[0]["content"])
        message = types.SimpleNamespace(content=self.raws.pop(0))
        return types.SimpleNamespace(choices=[types.SimpleNamespace(message=message)])


@pytest.mark.slow
def test_answers_are_judged_and_what_got_no_score_is_asked_again(tmp_path: Path, engine: Engine) -> None:
    options = Options("visit", reply="text")
    cases = packaged_cases("visit", tmp_path)[:2]
    judge, judging = Judge("http://127.0.0.1:9/v1", "some", None), Judging('{"score": 4}', "no idea")
    judge._client = types.SimpleNamespace(chat=types.SimpleNamespace(completions=judging))
    answering, stages = answering_of(engine, options), Stages("none", judge)
    folder = tmp_path / "run"
    report = evaluate(folder, cases, options, {}, answering, engine=engine, stages=stages)
    assert [(f.key, f.value, f.num_cases) for f in report.figures if f.key == "text"] == [("text", 4.0, 1)]
    assert "[Image Caption]: " + cases[0].caption in judging.prompts[0]
    assert "[Response]: There are three shapes." in judging.prompts[0]
    judging.raws = ["2"]
    report = evaluate(folder, cases, options, {}, answering, engine=engine, stages=stages)
    assert [(f.value, f.num_cases) for f in report.figures if f.key == "text"] == [(3.0, 2)]
    kept = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert [line["text"]["raw"] for line in kept] == ['{"score": 4}', "no idea", "2"]
    assert kept[0]["text"]["prompt"] == judging.prompts[0]


@pytest.mark.slow
def test_any_openai_server_may_judge(served: Served) -> None:
    """The packaged model has no scores to give, but it is asked, and what it says is kept."""
    judge = Judge(f"{served.address}/v1", served.http.get("/v1/models").json()["data"][0]["id"], None)
    rubric, case = rubric_of(Options("visit")), Case("a", "set", text="What is it?", caption="A circle.")
    assert rubric is not None
    told = judge(rubric, case, "A circle.")
    assert told.raw and told.score is None
    gone = Judge("http://127.0.0.1:9/v1", "none", None)(rubric, case, "A circle.")
    assert gone.score is None and "APIConnectionError" in gone.raw


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "scores", "figure"),
    [
        # In the file's order: (0.5 + 1.0) / 2
        ("mm-vet", {"How many": "0.5", "Is there": "1.0 "}, 75.0),
        # (5 + 9) / (10 + 10)
        ("llava-bench", {"How many": "10 5\nToo short.", "Is there": "10 9\nGood."}, 70.0),
    ],
)
def test_judged_vision_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, scores: dict[str, str], figure: float
) -> None:
    """Written as their authors have them, and judged by a server."""
    picture = packaged_cases("vqa", tmp_path)[0].image
    assert picture is not None
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture.read_bytes())
    questions = ["How many shapes are there?", "Is there a star?"]
    data = tmp_path
    if rule == "mm-vet":
        data = tmp_path / "mm-vet.json"
        row = {"imagename": "a.png", "answer": "three", "capability": ["rec"]}
        data.write_text(json.dumps({f"v1_{k}": row | {"question": q} for k, q in enumerate(questions)}))
    else:
        files: dict[str, list[dict[str, Any]]] = {
            "questions": [
                {"question_id": k, "image": "a.png", "text": q, "category": "conv"}
                for k, q in enumerate(questions)
            ],
            "answers_gpt4": [{"question_id": k, "text": "Three."} for k in range(2)],
            "context": [{"image": "a.png", "caption": "Three shapes."}],
        }
        for name, rows in files.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts: list[str] = []

    def answer(messages: Messages) -> str:
        prompts.append(messages[-1]["content"])
        # The question that is judged comes last: MM-Vet's prompt begins with others.
        return max((prompts[-1].rfind(question), said) for question, said in scores.items())[1]

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ["eval", "vqa", "--rule", rule, "--data", str(data), "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert f"--rule {rule}: is scored by a language model: expected --judge" in str(refused.exception)
    with judging_http(answer) as url:
        done = CliRunner().invoke(app, [*arguments, "--judge", url, "--timed", "0"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    [found] = [each for each in report["figures"] if each["key"] == rule.replace("-", "_")]
    assert (found["value"], found["num_cases"]) == (figure, 2)
    told = [
        json.loads(line)["text"] for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()
    ]
    assert all(any(text in prompt for prompt in prompts) for text in told), "the model's own answers"


@pytest.mark.slow
def test_two_runs_are_compared(tmp_path: Path, engine: Engine) -> None:
    cases = packaged_cases("vqa", tmp_path)
    whole, short = Options("vqa"), Options("vqa", max_tokens=1)
    for name, options in (("a", whole), ("b", short)):
        answering = answering_of(engine, options)
        evaluate(tmp_path / name, cases, options, {}, answering, engine=engine)
    compared = compare(tmp_path / "a", tmp_path / "b")
    [change] = [figure for figure in compared.figures if figure.key == "accuracy"]
    assert (change.first, change.second, change.value) == (100, 0, -100) and change.p < 0.05
    assert len(compared.changed) == compared.num_common == len(cases)
    assert compared.settings == {"max_tokens": (None, 1)}
    same = compare(tmp_path / "a", tmp_path / "a")
    assert same.changed == [] and all(figure.value == 0 and figure.p == 1 for figure in same.figures)
    done = CliRunner().invoke(app, ["eval", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 0 and "max_tokens: None → 1" in done.output
    with pytest.raises(ConfigError, match=r"expected the folder of a finished run, with scores\.json"):
        compare(tmp_path / "a", tmp_path)


def test_another_window_and_lag(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"fusion_window": 5, "other": 1}')
    (tmp_path / "model" / "weights").write_text("w")
    with variant(tmp_path / "model", window=2, lag=1) as folder:
        config = json.loads((folder / "config.json").read_text())
        assert config == {"fusion_window": 2, "fusion_lag": 1, "other": 1}
        assert (folder / "weights").read_text() == "w"
    assert not folder.exists()
    with variant(tmp_path / "model") as same:
        assert same == tmp_path / "model"
    with (
        pytest.raises(ConfigError, match=r"expected a checkpoint with config\.json"),
        variant(tmp_path, lag=1),
    ):
        pass


@pytest.mark.slow
def test_a_sweep_is_drawn(tmp_path: Path) -> None:
    arguments = ["eval", "sweep", "vqa", "--windows", "2,5", "--limit", "2", "--timed", "1"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.png", "window=2", "window=5"}


def test_a_listener_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """faster-whisper gets 16 kHz and the language, and fetches nothing."""
    calls: list[Any] = []

    class WhisperModel:
        def __init__(self, folder: str, **options: Any) -> None:
            calls.append((folder, options))

        def transcribe(self, samples: Any, **options: Any) -> Any:
            calls.append((len(samples), options["language"]))
            return [types.SimpleNamespace(text=" Hello"), types.SimpleNamespace(text=" there.")], None

    fake: Any = types.ModuleType("faster_whisper")
    fake.WhisperModel = WhisperModel
    monkeypatch.setitem(sys.modules, "faster_whisper", fake)
    with pytest.raises(ConfigError, match=r"expected a Whisper model of faster-whisper \(model\.bin"):
        listener(str(tmp_path), "en").__enter__()
    (tmp_path / "model.bin").touch()
    cases = packaged_cases("asr", tmp_path)
    assert cases[0].audio is not None
    with listener(str(tmp_path), "en") as listen:
        assert listen(cases[0].audio) == "Hello there."
    assert calls[0] == (str(tmp_path), {"local_files_only": True}) and calls[1][1] == "en"


deprecated = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Loudness(torch.nn.Module):
    """In place of UTMOS: how long a sound is, and how loud."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return samples

    @torch.jit.export
    def score(self, samples: torch.Tensor) -> torch.Tensor:
        return (samples.abs().max() + samples.size(-1) // 1000).reshape(1)


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.script(Loudness()), str(tmp_path / "utmos.pt"))
    return tmp_path / "utmos.pt"


@deprecated
def test_utmos_by_a_file(tmp_path: Path, scripted: Path) -> None:
    """It gets 16 kHz."""
    write_audio(tmp_path / "a.wav", np.full(24000, 0.5, np.float32), 24000)
    score = scores(scripted)["utmos"]
    assert score(tmp_path / "a.wav") == pytest.approx(16.5, abs=0.1)
    (tmp_path / "b.pt").write_bytes(b"none")
    with pytest.raises(ConfigError, match=r"--utmos: .*b\.pt: expected weights as TorchScript"):
        scores(tmp_path / "b.pt")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "c.pt"))
    with pytest.raises(ConfigError, match="expected TorchScript with a method `score`"):
        scores(tmp_path / "c.pt")


@deprecated
@pytest.mark.slow
def test_answers_without_a_score_are_listened_to_again(
    tmp_path: Path, engine: Engine, scripted: Path
) -> None:
    options, folder = Options("tts", max_units=UNITS), tmp_path / "run"
    cases = packaged_cases("tts", tmp_path)[:1]
    for stages, wanted in ((Stages("own"), False), (Stages("own", utmos=scripted), True)):
        report = evaluate(
            folder, cases, options, {}, answering_of(engine, options), engine=None, stages=stages
        )
        assert ("utmos" in {figure.key for figure in report.figures}) is wanted
    assert len((folder / "heard.jsonl").read_text().splitlines()) == 2


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs it says so before anything is loaded."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    done = CliRunner().invoke(app, ["eval", "asr", "--server", "http://127.0.0.1:9", "--out", str(tmp_path)])
    assert isinstance(done.exception, ConfigError) and "pip install 'antiphon[eval]'" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["asr", "--data", "nowhere"], "nowhere: no such file or folder; `asr` needs LibriSpeech"),
        (["vqa", "--rule", "best"], "--rule: expected one of exact, words, number, people, choice, yes-no, "),
        (
            ["duplex", "--server", "http://127.0.0.1:9", "--activity", "energy"],
            "--activity: is a setting of the model in this process",
        ),
        (["asr", "--server", "127.0.0.1:9"], "--server: expected http://HOST:PORT"),
    ],
)
def test_wrong_usage(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["eval", *arguments])
    assert done.exit_code != 0
    assert expected in str(done.exception)


def test_addresses_of_servers() -> None:
    assert base_url_of("http://a:1/") == base_url_of("http://a:1/v1") == "http://a:1/v1"


@pytest.mark.slow
@pytest.mark.long
def test_the_packaged_models_report(tmp_path: Path) -> None:
    """All tasks on one page, with players."""
    done = CliRunner().invoke(app, ["eval", "demo", "--out", str(tmp_path / "demo"), "--timed", "1"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "demo" / "report.html").read_text()
    for task in ("asr", "spoken-qa", "visit", "vqa", "tts", "duplex"):
        assert f'<section id="{task}">' in page
        report = json.loads((tmp_path / "demo" / task / "report.json").read_text())
        assert report["num_failed"] == 0
        for figure in report["figures"]:
            if figure["key"] in ("wer", "heard_wer"):
                assert figure["value"] <= 10
            if figure["key"] in ("text", "accuracy"):
                assert figure["value"] >= 80
    assert 'src="tts/audio/00000-1.wav"' in page and 'src="visit/shown/' in page
