"""Each task's scores of a fixture are those that were counted by hand."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from evaluated import answered, asked
from rich.console import Console

from antiphon.evaluation.normalising import plain, released, speech_characters
from antiphon.evaluation.options import Options
from antiphon.evaluation.paper import paper_figure
from antiphon.evaluation.report import Report, make_report
from antiphon.evaluation.rubrics import JUDGED_RULES, rubric_of
from antiphon.evaluation.rules import RULES, contains_answer
from antiphon.evaluation.scoring import Records
from antiphon.evaluation.tables import paper_table


def value(report: Report, key: str, group: str = "set") -> float:
    [found] = [figure.value for figure in report.figures if (figure.group, figure.key) == (group, key)]
    return found


def report_of(options: Options, cases: Any, answers: Any, **files: Any) -> Report:
    records = Records(answers, files.get("heard", {}), files.get("judged", {}), files.get("times", {}))
    return make_report(cases, options, {}, records)


def test_recognition() -> None:
    """Nine words; by Whisper's rule one is wrong ("it's" is "it is", "colour" is "color", and one of ten is
    missing), by the released code's three of nine."""
    cases = [
        asked("a", references=("MISTER JONES IS HERE",)),
        asked("b", references=("it's the colour of twenty",)),
    ]
    answers = answered(a={"transcript": "Mr. Jones is here."}, b={"transcript": "It is the color of 21"})
    report = report_of(Options("asr"), cases, answers)
    assert value(report, "wer") == pytest.approx(100 * 1 / 10)
    assert value(report, "wer_released") == pytest.approx(100 * (1 + 4) / 9)


def test_a_recording_that_failed_is_all_wrong() -> None:
    cases = [asked("a", references=("red and blue",)), asked("b", references=("green",))]
    answers = answered(a={"error": "a fault"}, b={"transcript": "green"})
    report = report_of(Options("asr"), cases, answers)
    assert value(report, "wer") == pytest.approx(75.0)
    assert [each.case.case_id for each in report.failures] == ["a"]
    assert report.worst[0].case.case_id == "a"


def test_chinese_is_compared_by_characters() -> None:
    cases = [asked("a", references=("今天天气好。",))]
    answers = answered(a={"transcript": "今天 天汽好"})
    assert value(report_of(Options("asr", language="zh"), cases, answers), "cer") == pytest.approx(20.0)


def test_spoken_questions() -> None:
    """S→T: two of three; S→S: what was heard of the speech, one of three."""
    cases = [
        asked("a", references=("Paris",)),
        asked("b", references=("21", "twenty one")),
        asked("c", references=("Rome",)),
    ]
    answers = answered(
        a={"text": "It is Paris, of course."}, b={"text": "There are twenty-one."}, c={"text": "No idea."}
    )
    heard = {"a": {"heard": "it is parrots", "listener": "own"}, "b": {"heard": "21", "listener": "own"}}
    report = report_of(Options("spoken-qa"), cases, answers, heard=heard)
    assert value(report, "text") == pytest.approx(200 / 3)
    assert value(report, "speech") == pytest.approx(100 / 3)
    assert [each.case.case_id for each in report.worst[:2]] == ["c", "a"], "wrong twice, and once"


def test_a_question_may_have_a_rule_of_its_own() -> None:
    """Else a right answer is found within a longer word, too."""
    cases = [
        asked("a", references=("art",)),
        asked("b", references=("art",), rule="words"),
        asked("c", references=("two",), rule="number"),
    ]
    answers = answered(a={"text": "A party."}, b={"text": "A party."}, c={"text": "One and one is two."})
    report = report_of(Options("spoken-qa", reply="text"), cases, answers)
    assert [each.counts["text"][0] for each in report.scored] == [1, 0, 1]
    mixed = report_of(Options("vqa"), cases, answers)
    assert [each.counts["accuracy"][0] for each in mixed.scored] == [0, 0, 1], "the first by the run's rule"


def test_spoken_questions_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right answers are found all the same, and the report says what was missing."""
    for name in ("whisper_normalizer", "jiwer"):
        monkeypatch.setitem(sys.modules, name, None)
    cases = [asked("a", text="Where?", references=("New York",)), asked("b", references=("Rome",))]
    answers = answered(a={"text": "In new york."}, b={"text": "In Paris."})
    report = report_of(Options("spoken-qa", reply="text"), cases, answers)
    assert [(figure.key, figure.value) for figure in report.figures] == [("text", 50.0)]
    assert any("without Whisper's normaliser" in note for note in report.notes)


def test_judged_answers() -> None:
    cases = [asked("a"), asked("b"), asked("c")]
    judged = {
        "a": {"text": {"score": 4.0}, "speech": {"score": 2.0}},
        "b": {"text": {"score": 5.0}, "speech": {"score": 3.0}},
        "c": {"text": {"score": None}, "speech": {"score": None}},
    }
    report = report_of(Options("visit"), cases, answered(a={}, b={}, c={}), judged=judged)
    assert (value(report, "text"), value(report, "speech")) == (4.5, 2.5)
    assert report.figures[0].num_cases == 2


def test_replies_that_a_limit_cut() -> None:
    cases = [
        asked("a", references=("one",)),
        asked("b", references=("one",)),
        asked("c", references=("one",)),
    ]
    answers = answered(a={"text": "one", "finish": "stop"}, b={"text": "one", "finish": "length"}, c={})
    report = report_of(Options("vqa"), cases, answers)
    [figure] = [figure for figure in report.figures if figure.key == "unfinished"]
    assert (figure.value, figure.num_cases) == (50.0, 2), "of what is known"


@pytest.mark.parametrize("rule", ["mm-vet", "llava-bench"])
def test_judged_vision_sets(rule: str) -> None:
    """MM-Vet averages scores: (0.5 + 1 + 0) / 3. LLaVA-Bench sets the sum of scores beside that of GPT-4's
    answers: (4 + 9) / (8 + 10); its question without a score counts for neither."""
    cases = [asked("a", "conv"), asked("b", "conv"), asked("c", "detail")]
    judged = {
        "mm-vet": {name: {"text": {"score": score}} for name, score in (("a", 0.5), ("b", 1.0), ("c", 0.0))},
        "llava-bench": {
            "a": {"text": {"score": 4.0, "whole": 8.0}},
            "b": {"text": {"score": 9.0, "whole": 10.0}},
            "c": {"text": {"score": None, "whole": 1.0}},
        },
    }[rule]
    report = report_of(Options("vqa", rule=rule), cases, answered(a={}, b={}, c={}), judged=judged)
    key = rule.replace("-", "_")
    assert value(report, key, "all") == pytest.approx({"mm-vet": 50.0, "llava-bench": 100 * 13 / 18}[rule])
    [paper] = [figure.paper.value for figure in report.paper_columns if figure.paper is not None]
    assert paper == {"mm-vet": 44.7, "llava-bench": 71.2}[rule]
    assert any("different judges" in note for note in report.notes)


def test_what_the_judge_of_mm_vet_is_asked() -> None:
    case = asked("a", text="What is x?", references=("-1<AND>-5",))
    prompt = JUDGED_RULES["mm-vet"].prompt(case, "x = 5")
    assert prompt.startswith("Compare the ground truth and prediction from AI models")
    assert prompt.endswith("\nWhat is x? | -1 <AND> -5 | x = 5 | ")


def test_what_the_judge_of_llava_bench_is_asked() -> None:
    rubric = JUDGED_RULES["llava-bench"]
    case = asked("a", text="Where is it?", references=("By GPT-4.",), caption="A beach.\nSun.")
    prompt = rubric.prompt(case, "Here {it} is.")
    assert prompt.startswith(
        "[Context]\nA beach.\nSun.\n\n[Question]\nWhere is it?\n\n[Assistant 1]\nBy GPT-4."
    )
    assert "[Assistant 2]\nHere {it} is.\n\n[End of Assistant 2]\n\n[System]\nWe would like" in prompt
    assert rubric.system.startswith("You are a helpful and precise assistant")


@pytest.mark.parametrize(
    ("rule", "raw", "score"),
    [
        ("mm-vet", "0.5", (0.5, 1.0)),
        ("mm-vet", " 1.0\n", (1.0, 1.0)),
        ("mm-vet", "0.3 | next row", (0.3, 1.0)),
        ("mm-vet", "1.5", None),
        ("mm-vet", "10", None),
        ("mm-vet", "It is right.", None),
        ("llava-bench", "8 6\nAssistant 1 says more.", (6.0, 8.0)),
        ("llava-bench", "9, 7.5", (7.5, 9.0)),
        ("llava-bench", "8\n6", None),
        ("llava-bench", "Assistant 1: 8, Assistant 2: 6", None),
        ("llava-bench", "0 5", None),
        ("llava-bench", "8 11", None),
    ],
)
def test_scores_of_vision_judges_are_read(rule: str, raw: str, score: tuple[float, float] | None) -> None:
    assert JUDGED_RULES[rule].read(raw) == score


@pytest.mark.parametrize(
    ("raw", "score"),
    [
        ('{"score": 4}', 4),
        ("{score: 3.5}", 3.5),
        ("```json\n{'score': '5'}\n```", 5),
        ("2", 2),
        ('{"score": 9}', None),
        ("I cannot say.", None),
        ("In 2024 there were 5 of them.", None),
    ],
)
def test_a_judges_answer_is_read(raw: str, score: float | None) -> None:
    rubric = rubric_of(Options("visit"))
    assert rubric is not None
    assert rubric.read(raw) == (None if score is None else (score, 1.0))


@pytest.mark.parametrize(
    ("rule", "reply", "references", "accuracy"),
    [
        ("exact", "The Dog.", ("dog",), 1.0),
        ("exact", "A dog and a cat", ("dog",), 0.0),
        ("words", "It's at the top left.", ("top left",), 1.0),
        ("words", "On the left.", ("top left",), 0.0),
        ("words", "I don't know that.", ("no", "now"), 0.0),
        ("words", "I don't know that.", ("do not know",), 1.0),
        ("words", "There are 7 grey ones!", ("seven gray",), 1.0),
        ("words", "Anything", ("",), 0.0),
        ("number", "Three plus four is seven.", ("7",), 1.0),
        ("number", "3 plus 4 is 7.", ("seven",), 1.0),
        ("number", "Seven plus one is eight.", ("seven",), 0.0),
        ("number", "Two minus one makes one. Oh!", ("one",), 1.0),
        ("number", "It is twenty-one. Good.", ("21",), 1.0),
        ("number", "It costs 2.50 there", ("2.50",), 1.0),
        ("number", "Hello.", ("seven",), 0.0),
        ("people", "yes", ("yes",) * 3 + ("no",) * 7, 0.9),
        ("people", "no", ("yes",) * 3 + ("no",) * 7, 1.0),
        ("people", "maybe", ("yes",) * 10, 0.0),
        ("choice", "B. A cat", ("B",), 1.0),
        ("choice", "(c)", ("C",), 1.0),
        ("choice", "Bananas", ("B",), 0.0),
        ("choice", "B", ("1",), 1.0),
        ("yes-no", "No, there is not.", ("no",), 1.0),
        ("yes-no", "Yes. No doubt.", ("yes",), 1.0),
    ],
)
def test_rules_of_vision_benchmarks(
    rule: str, reply: str, references: tuple[str, ...], accuracy: float
) -> None:
    assert RULES[rule](reply, references)["accuracy"] == pytest.approx((accuracy, 1.0))


def test_figures_of_yes_and_no() -> None:
    """Three said yes and two were right, of three that should have: precision 2/3, recall 2/3."""
    cases = [
        asked(name, references=(label,))
        for name, label in zip("abcd", ("yes", "yes", "yes", "no"), strict=True)
    ]
    answers = answered(a={"text": "Yes"}, b={"text": "Yes"}, c={"text": "No"}, d={"text": "Yes"})
    report = report_of(Options("vqa", rule="yes-no"), cases, answers)
    assert value(report, "accuracy") == pytest.approx(50)
    for key in ("precision", "recall", "f1"):
        assert value(report, key) == pytest.approx(200 / 3)
    assert value(report, "yes") == pytest.approx(75)


def test_mme() -> None:
    """Colour: three of four answers, one of two pictures, so 75 + 50; count: all right, 200."""
    red, blue, three = Path("red.png"), Path("blue.png"), Path("three.png")
    cases = [
        asked("a", "color", image=red, references=("Yes",)),
        asked("a#2", "color", image=red, references=("No",)),
        asked("b", "color", image=blue, references=("Yes",)),
        asked("b#2", "color", image=blue, references=("No",)),
        asked("c", "count", image=three, references=("Yes",)),
    ]
    said = {"a": "Yes, it is.", "a#2": "No", "b": "yes", "b#2": "Yes", "c": "Yes."}
    answers = answered(**{case_id: {"text": text} for case_id, text in said.items()})
    report = report_of(Options("vqa", rule="mme"), cases, answers)
    assert [value(report, "mme", group) for group in ("color", "count", "all")] == [125, 200, 325]


def test_an_error_is_no_yes() -> None:
    cases = [asked("a", references=("yes",))]
    report = report_of(Options("vqa", rule="yes-no"), cases, answered(a={"error": "a fault"}))
    assert value(report, "accuracy") == 0


def test_speech_of_a_text() -> None:
    """One of the four words of both texts is missing, one is another, and one is added."""
    cases = [asked("a", text="The warm coat."), asked("b", text="Hello")]
    heard = {
        "a": {"heard": "warm boat", "listener": "own", "dnsmos": 3.0, "utmos": 2.0},
        "b": {"heard": "hello there", "listener": "own", "dnsmos": 3.5, "utmos": 4.0},
    }
    report = report_of(Options("tts"), cases, answered(a={}, b={}), heard=heard)
    assert value(report, "said_wer") == pytest.approx(75.0)
    assert value(report, "dnsmos") == 3.25
    assert value(report, "utmos") == 3


def test_turns() -> None:
    """One on time, one cut, one missed: the delay is that of the first alone."""
    cases = [asked(name, speech_end_s=2.0) for name in "abc"]
    answers = answered(a={"ends_s": [2.5]}, b={"ends_s": [1.0, 2.5]}, c={})
    report = report_of(Options("duplex"), cases, answers)
    assert value(report, "cut") == pytest.approx(100 / 3)
    assert value(report, "missed") == pytest.approx(100 / 3)
    assert value(report, "delay_ms") == pytest.approx(500)


def test_the_papers_figures_stand_beside_its_sets_alone() -> None:
    cases = [
        asked("a", group="test-clean", references=("one",)),
        asked("b", group="mine", references=("one",)),
    ]
    answers = answered(a={"transcript": "one"}, b={"transcript": "one"})
    report = report_of(Options("asr"), cases, answers)
    papers = {
        (figure.group, figure.key): figure.paper.value
        for figure in report.figures
        if figure.paper is not None
    }
    assert papers == {("test-clean", "wer_released"): 3.0}
    assert {figure.group for figure in report.figures} == {"test-clean", "mine", "all"}
    written = StringIO()
    Console(file=written, width=100).print(paper_table(report))
    assert "Table 5" in written.getvalue() and "Stream-Omni, the paper" in written.getvalue()
    assert "mine" not in written.getvalue()


@pytest.mark.parametrize(
    ("task", "group", "key", "window", "figure"),
    [
        ("asr", "test-clean", "time_ms", None, (125.0, "Table 5")),
        ("asr", "test-clean", "wer", None, None),
        ("spoken-qa", "llama-questions", "text", 2, (76.3, "Table 3")),
        ("spoken-qa", "llama-questions", "speech", None, (65.0, "Table 3")),
        ("spoken-qa", "speech-web-questions", "speech", 10, (25.7, "Table 6")),
        ("spoken-qa", "speech-web-questions", "speech", 7, None),
        ("visit", "SpokenVisIT", "speech", None, (2.62, "Table 4")),
        ("vqa", "llava_gqa_testdev_balanced", "accuracy", None, (68.3, "Table 2")),
        ("vqa", "llava_pope_test", "f1", None, (86.0, "Table 2")),
        ("vqa", "packaged", "accuracy", None, None),
    ],
)
def test_which_figure_of_the_paper(
    task: str, group: str, key: str, window: int | None, figure: tuple[float, str] | None
) -> None:
    found = paper_figure(Options(task), group, key, window)
    assert (None if found is None else (found.value, found.source)) == figure


def test_normalisers() -> None:
    assert released("It's 5-fold, isn't it?") == "ITS 5FOLD ISNT IT"
    assert plain("The cat's a Dog!") == "cats dog"
    assert speech_characters("Ａ１，好。") == "a1好"
    assert contains_answer("parisian", ["Paris"], str.lower), "as the released code does, within a word, too"
    assert not contains_answer("", ["Paris"], str.lower)
    assert contains_answer("A SCIENCE-FICTION FILM", ["Science-fiction"], lambda text: text.replace("-", ""))


def test_the_page_shows_worst_and_random_cases(tmp_path: Path) -> None:
    from antiphon.evaluation.page import write_page

    cases = [asked("<b>", references=("so far",)), asked("b", references=("good",))]
    answers = answered(**{"<b>": {"transcript": "none"}, "b": {"transcript": "good"}})
    report = report_of(Options("asr"), cases, answers)
    write_page(tmp_path / "report.html", "Recognition", "", [(tmp_path, report)])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page.replace('<b style="', "")
    assert "2 of 2 wrong" in page and "Worst" in page and "Drawn at random" in page
    assert "http://" not in page and "https://" not in page
