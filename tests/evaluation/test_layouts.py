"""The files of each task: what is read of them, and what is said where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.errors import ConfigError
from antiphon.evaluation.cases import fingerprint
from antiphon.evaluation.layouts import LAYOUTS, read_cases
from antiphon.evaluation.options import TASKS
from antiphon.evaluation.packaged import packaged_cases
from antiphon.sound.writing import write_audio


def sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.zeros(1600, np.float32), 16000)
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_librispeech_as_it_is_unpacked(tmp_path: Path) -> None:
    for split, name in (("test-clean", "61-70968-0000"), ("test-other", "367-130732-0000")):
        speaker, chapter, _ = name.split("-")
        folder = tmp_path / "LibriSpeech" / split / speaker / chapter
        sound(folder / f"{name}.flac")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{name} HE BEGAN A CONFUSED COMPLAINT\n")
    cases = read_cases("asr", tmp_path)
    assert [(case.group, case.case_id) for case in cases] == [
        ("test-clean", "61-70968-0000"),
        ("test-other", "367-130732-0000"),
    ]
    assert cases[0].references == ("HE BEGAN A CONFUSED COMPLAINT",)
    [one] = read_cases("asr", tmp_path / "LibriSpeech" / "test-clean")
    assert one.group == "test-clean"
    (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{name} GONE\n367-130732-0001 MISSING\n")
    with pytest.raises(ConfigError, match=r"367-130732\.trans\.txt:2: .*367-130732-0001\.flac"):
        read_cases("asr", tmp_path)


def test_recordings_listed_in_a_file(tmp_path: Path) -> None:
    """As JSONL, as the released code lists them, and as TSV."""
    sound(tmp_path / "wavs" / "a.wav")
    released = lines(tmp_path / "test-clean.jsonl", {"id": "x", "wav": "a.wav", "transcription": "One two"})
    [case] = read_cases("asr", released)
    assert (case.case_id, case.group, case.references) == ("x", "test-clean", ("One two",))
    (tmp_path / "some.tsv").write_text("path\tsentence\nwavs/a.wav\tOne two\n")
    [case] = read_cases("asr", tmp_path / "some.tsv")
    assert case.audio == tmp_path / "wavs" / "a.wav" and case.references == ("One two",)


def test_questions_with_aliases(tmp_path: Path) -> None:
    """The two sets' own field names; aliases may be a list, or one written as a text."""
    sound(tmp_path / "a.wav")
    llama = lines(
        tmp_path / "llama-questions.jsonl", {"Wav Filename": "a.wav", "QuestionText": "Who?", "Answer": "He"}
    )
    web = lines(
        tmp_path / "web-questions.jsonl",
        {"WavPath": "a.wav", "question": "Who?", "answers": ["He", "Him"]},
        {"WavPath": "a.wav", "question": "Who?", "answers": '["She", "Her"]'},
    )
    [case] = read_cases("spoken-qa", llama)
    assert (case.text, case.references) == ("Who?", ("He",))
    assert [case.references for case in read_cases("spoken-qa", web)] == [("He", "Him"), ("She", "Her")]


def test_spokenvisit(tmp_path: Path) -> None:
    sound(tmp_path / "speech" / "a.wav")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    row = {"id": 7, "image": "a.png", "speech": "a.wav", "instruction": "What is it?"}
    lines(tmp_path / "VisIT_speech.jsonl", row | {"instruction_conditioned_caption": "A cat."})
    [case] = read_cases("visit", tmp_path)
    assert (case.case_id, case.text, case.caption) == ("7", "What is it?", "A cat.")


def test_llava_questions_with_answers_apart(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"")
    questions = lines(
        tmp_path / "llava_pope_test.jsonl", {"question_id": 1, "image": "a.jpg", "text": "Is it?"}
    )
    answers = lines(tmp_path / "labels.jsonl", {"question_id": 1, "label": "yes"})
    [case] = read_cases("vqa", questions, image_folder=tmp_path / "pictures", answers=answers)
    assert (case.case_id, case.group, case.references) == ("1", "llava_pope_test", ("yes",))
    with pytest.raises(ConfigError, match=r"llava_pope_test\.jsonl:1: expected an answer to question '1'"):
        read_cases("vqa", questions, image_folder=tmp_path / "pictures")


def test_answers_by_category_in_their_order(tmp_path: Path) -> None:
    """As POPE has them: one JSON object a line, in files that end with .json, whose ids are others."""
    rows = [
        {"question_id": number, "text": "Is it?", "category": category}
        for number, category in enumerate(("popular", "random", "popular"))
    ]
    questions = lines(tmp_path / "llava_pope_test.jsonl", *rows)
    (tmp_path / "coco").mkdir()
    lines(
        tmp_path / "coco" / "coco_pope_popular.json",
        {"question_id": 1, "label": "yes"},
        {"question_id": 2, "label": "no"},
    )
    lines(tmp_path / "coco" / "coco_pope_random.json", {"question_id": 1, "label": "no"})
    cases = read_cases("vqa", questions, answers=tmp_path / "coco")
    assert [case.references for case in cases] == [("yes",), ("no",), ("no",)]
    lines(tmp_path / "coco" / "coco_pope_random.json", {"label": "no"}, {"label": "no"})
    with pytest.raises(ConfigError, match=r"coco_pope_random\.json: expected 1 answers, found 2"):
        read_cases("vqa", questions, answers=tmp_path / "coco")


def test_other_forms_of_json(tmp_path: Path) -> None:
    """ScienceQA's conversations and its problems by id, and VQA's annotations."""
    told = [{"from": "human", "value": "<image>\nWhich one?"}, {"from": "gpt", "value": "A"}]
    (tmp_path / "llava_test_CQM-A.json").write_text(json.dumps([{"id": "4", "conversations": told}]))
    (tmp_path / "problems.json").write_text(json.dumps({"4": {"answer": 1, "choices": ["x", "y"]}}))
    data = tmp_path / "llava_test_CQM-A.json"
    [case] = read_cases("vqa", data, answers=tmp_path / "problems.json", set_name="scienceqa")
    assert (case.group, case.text, case.references) == ("scienceqa", "Which one?", ("1",))
    people = [{"answer": "a"}, {"answer": "b"}]
    (tmp_path / "annotations.json").write_text(
        json.dumps({"annotations": [{"question_id": 4, "answers": people}]})
    )
    [case] = read_cases("vqa", data, answers=tmp_path / "annotations.json")
    assert case.references == ("a", "b")


def test_two_questions_about_one_picture(tmp_path: Path) -> None:
    """MME gives both the id of the picture, whose folder is its category."""
    row = {"question_id": "color/1.png", "text": "Is it red?", "answer": "Yes"}
    data = lines(tmp_path / "llava_mme.jsonl", row, row | {"text": "Is it blue?", "answer": "No"})
    cases = read_cases("vqa", data, rule="mme")
    assert [(case.case_id, case.group) for case in cases] == [
        ("color/1.png", "color"),
        ("color/1.png#2", "color"),
    ]


@pytest.mark.parametrize("inner", ["", "questions_answers_YN"])
def test_mme_answers_as_they_are_unpacked(tmp_path: Path, inner: str) -> None:
    """A text file for each picture; LLaVA's questions are told otherwise how to be answered."""
    how = "\nAnswer the question using a single word or phrase."
    row = {"question_id": "color/1.png", "text": f"Is it red?{how}"}
    data = lines(tmp_path / "llava_mme.jsonl", row, row | {"text": f"Is it blue?{how}"})
    folder = tmp_path / "MME" / "color" / inner
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text(
        "Is it blue? Please answer yes or no.\tNo\nIs it red?  Please answer yes or no.\tYes\n"
    )
    cases = read_cases("vqa", data, answers=tmp_path / "MME", rule="mme")
    assert [case.references for case in cases] == [("Yes",), ("No",)]
    lines(data, row | {"text": "Is it green?"})
    with pytest.raises(ConfigError, match=r"llava_mme\.jsonl:1: expected its question in .*1\.txt"):
        read_cases("vqa", data, answers=tmp_path / "MME", rule="mme")
    lines(data, row | {"question_id": "color/2.png"})
    with pytest.raises(ConfigError, match=r"no such file: .*2\.txt"):
        read_cases("vqa", data, answers=tmp_path / "MME", rule="mme")


def test_mm_vet(tmp_path: Path) -> None:
    """Its own file; groups are the capabilities that a question needs together."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "v1_0.png").write_bytes(b"")
    told = {
        "imagename": "v1_0.png",
        "question": "What is x in the equation?",
        "answer": "-1<AND>-5",
        "capability": ["ocr", "math"],
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps({"v1_0": told}))
    [case] = read_cases("vqa", tmp_path / "mm-vet.json", rule="mm-vet")
    assert (case.case_id, case.group, case.references) == ("v1_0", "math, ocr", ("-1<AND>-5",))
    assert (case.text, case.image) == ("What is x in the equation?", tmp_path / "images" / "v1_0.png")


def test_llava_bench(tmp_path: Path) -> None:
    """Its folder: questions, GPT-4's answers to them, and what the pictures show."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "001.jpg").write_bytes(b"")
    row = {"question_id": 0, "image": "001.jpg", "text": "Where?", "category": "conv"}
    lines(tmp_path / "questions.jsonl", row)
    lines(tmp_path / "answers_gpt4.jsonl", {"question_id": 0, "answer_id": "a", "text": "At Diamond Head."})
    lines(tmp_path / "context.jsonl", {"image": "001.jpg", "caption": ["A view.", "A crater."]})
    [case] = read_cases("vqa", tmp_path, rule="llava-bench")
    assert (case.group, case.text, case.references) == ("conv", "Where?", ("At Diamond Head.",))
    assert case.caption == "A view.\nA crater."
    lines(tmp_path / "context.jsonl", {"image": "002.jpg", "caption": "A view."})
    with pytest.raises(ConfigError, match=r"questions\.jsonl:1: expected a caption of '001\.jpg' in context"):
        read_cases("vqa", tmp_path, rule="llava-bench")
    lines(tmp_path / "answers_gpt4.jsonl", {"question_id": 7, "text": "At Diamond Head."})
    with pytest.raises(ConfigError, match=r"expected an answer to question '0' in answers_gpt4\.jsonl"):
        read_cases("vqa", tmp_path, rule="llava-bench")
    with pytest.raises(ConfigError, match=r"expected the folder of LLaVA-Bench, with questions\.jsonl"):
        read_cases("vqa", tmp_path / "questions.jsonl", rule="llava-bench")


def test_dialogues_and_rules(tmp_path: Path) -> None:
    """What is said before a question, with the model's replies or with given ones."""
    sound(tmp_path / "audio" / "a.wav")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    turns = [{"audio": "a.wav", "image": "a.png"}, {"text": "And now?", "reply": "Three."}]
    row = {"audio": "a.wav", "question": "So?", "answers": ["3"], "rule": "number", "turns": turns}
    [case] = read_cases("spoken-qa", lines(tmp_path / "talks.jsonl", row))
    first, second = case.turns
    assert (first.audio, first.reply) == (tmp_path / "audio" / "a.wav", None)
    assert first.image == tmp_path / "images" / "a.png"
    assert (second.audio, second.text, second.reply) == (None, "And now?", "Three.")
    assert case.rule == "number"
    assert len(fingerprint([case])) == 16
    typed = {"text": "So?", "answer": "3", "turns": turns[1:]}
    [case] = read_cases("vqa", lines(tmp_path / "typed.jsonl", typed))
    assert case.turns == (second,)
    for wrong, expected in (
        ({"rule": "best"}, r"talks\.jsonl:1: rule: expected one of exact, words, number, .* found 'best'"),
        ({"rule": "mme"}, "found 'mme'"),
        ({"turns": "Hello"}, "turns: expected a list of objects"),
        ({"turns": [{"reply": "Three."}]}, r"talks\.jsonl:1: turn 1: expected a field 'text'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            read_cases("spoken-qa", lines(tmp_path / "talks.jsonl", row | wrong))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{", r"asr\.jsonl:2: expected JSON"),
        ("[]", r"asr\.jsonl:2: expected an object, found \[\]"),
        ('{"audio": "a.wav"}', r"asr\.jsonl:2: expected a field 'text' or .*found the fields audio"),
        ('{"audio": "none.wav", "text": "a"}', r"asr\.jsonl:2: no such file: .*none\.wav"),
        ('{"audio": "a.wav", "text": [1]}', r"asr\.jsonl:2: text: expected a text, found \[1\]"),
        ('{"audio": "a.wav", "text": "a", "id": "0"}', "expected each id once, found '0' twice"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: str, expected: str) -> None:
    sound(tmp_path / "a.wav")
    path = tmp_path / "asr.jsonl"
    path.write_text('{"audio": "a.wav", "text": "a"}\n' + row + "\n")
    with pytest.raises(ConfigError, match=expected):
        read_cases("asr", path)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_missing_is_described(tmp_path: Path, task: str) -> None:
    with pytest.raises(ConfigError, match="no such file") as error:
        read_cases(task, tmp_path / "nowhere")
    assert LAYOUTS[task] in str(error.value)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="found nothing to evaluate"):
        read_cases(task, tmp_path / "empty.jsonl")


@pytest.mark.parametrize("task", [task for task in TASKS if task != "duplex"])
def test_the_packaged_cases(task: str, tmp_path: Path) -> None:
    """All their files are there, and no figure of theirs stands beside the paper's."""
    cases = packaged_cases(task, tmp_path)
    assert len(cases) >= 5 and {case.group for case in cases} == {"packaged"}
    assert len(fingerprint(cases)) == 16


def test_cases_are_told_apart(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    path = lines(tmp_path / "asr.jsonl", {"audio": "a.wav", "text": "a"})
    first = fingerprint(read_cases("asr", path))
    assert fingerprint(read_cases("asr", path)) == first
    lines(path, {"audio": "a.wav", "text": "b"})
    assert fingerprint(read_cases("asr", path)) != first
