"""The examinations of the embedded model: they run on any checkpoint by the tasks of `antiphon eval`, and say
which bars are met."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from evaluated import answered, asked

from antiphon import Engine
from antiphon.evaluation.options import Options
from antiphon.evaluation.report import Report, make_report
from antiphon.evaluation.scoring import Records
from antiphon_tiny import evaluating, examination
from antiphon_tiny.omni import evaluation
from antiphon_tiny.omni import spoken_evaluation as spoken
from antiphon_tiny.outside.examination import examine_outside
from antiphon_tiny.outside.questions import dialogues, questions, said
from antiphon_tiny.outside.voices import OWN, Voices
from antiphon_tiny.speech import shards
from antiphon_tiny.world import samples
from antiphon_tiny.world.picture import draw_picture

NUM_ASKED = 3


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Held-out questions, "spoken" by noise."""
    rng = np.random.default_rng(0)
    texts = {sample.turns[0].question for sample in samples.draw_samples(300, "held_out", 1)}
    infos = [{"text": text, "voice": "noise", "phones": [0], "ends_s": None} for text in sorted(texts)]
    sounds = [shards.to_int16(rng.normal(0, 0.1, 16000).astype(np.float32)) for _ in infos]
    for voice in ("test_heart", "test_joe"):
        shards.write_shard(tmp_path / "speech", voice, 0, infos, {"heard": sounds})
    return tmp_path


@pytest.mark.slow
@pytest.mark.long
def test_any_checkpoint_can_be_examined(work: Path) -> None:
    figures = {figure.name: figure for figure in examination.examine(None, None, work, num=NUM_ASKED)}
    assert len(figures) == 13
    unknown = {name for name, figure in figures.items() if not math.isfinite(figure.value)}
    assert all("right" in name or "DNSMOS" in name for name in unknown)
    assert figures["right answers otherwise, typed"].value > 0
    runs = {path.parent.name: path for path in (work / "reports").glob("*/report.json")}
    assert set(runs) == {
        "typed-pictures", "typed-talk", "spoken", "spoken-joe", "replies", "replies-whole", "first-sound",
    }  # fmt: skip
    for name in ("typed-pictures", "typed-talk", "replies"):
        assert json.loads(runs[name].read_text())["num_cases"] == NUM_ASKED
    assert 0 < json.loads(runs["spoken-joe"].read_text())["num_cases"] <= 2 * NUM_ASKED
    table = examination.show(list(figures.values()))
    assert table.row_count == 13


@pytest.mark.slow
@pytest.mark.long
def test_the_examination_from_outside(tmp_path: Path) -> None:
    """Its sentences "spoken" by noise; what is typed is answered as it is when the engine is asked."""
    rng = np.random.default_rng(0)
    texts = {said(turn) for question in (*questions(), *dialogues()) for turn in question.turns}
    noise = {text: rng.normal(0, 2000, 16000).astype(np.int16) for text in sorted(texts)}
    for voice in (OWN, "joe"):
        np.savez(tmp_path / f"{voice}.npz", **noise)  # type: ignore[arg-type]  # of any names
    with Engine(progress=False) as engine:
        report = examine_outside(
            engine, Voices(tmp_path), tmp_path / "runs", unknown=["joe"], every=40, num_spoken_replies=2
        )
    names = {figure.name: figure.value for figure in report.figures}
    for name in (
        "natural wording, typed: right",
        "own voice, 1 s of room at both ends: word error",
        "unknown voice joe, 1 s of room at both ends: right",
        "30 s of joe: word error",
        "runaway replies of 2",
    ):
        assert math.isfinite(names[name]), name
    assert any(line.startswith("streamed: first sound after") for line in report.lines)
    assert sum(line.startswith("pictures, ") for line in report.lines) == 4
    typed = [each for each in report.asked if each["how"] == "typed"]
    assert [each["said"] for each in typed] == [list(question.turns) for question in questions()[::40]]
    inside = [bool(each["right"]) for each in typed if each["accepted"]]
    assert names["natural wording, typed: right"] == pytest.approx(100 * np.mean(inside))
    for question, each in zip(questions()[::40], typed, strict=True):
        assert each["right"] is question.is_right(str(each["answer"]))
    assert {path.name for path in (tmp_path / "runs").iterdir()} > {
        "typed",
        "spoken-joe",
        "long-joe",
        "replies",
    }
    assert (tmp_path / "runs" / "spoken-joe" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.long
def test_a_spoken_question_is_asked_of_several_pictures(work: Path) -> None:
    once = spoken.spoken_questions(work, "test_heart", limit=100)
    asked = spoken.spoken_questions(work, "test_heart", limit=300, num_pictures=3)
    seen = Counter(question.text for question in asked)
    pictured = {question.text for question in asked if question.sample.scene}
    each = {(q.text, q.sample.scene and q.sample.scene.key) for q in asked}
    assert len(each) == len(asked)
    assert max(seen.values()) == 3
    assert pictured
    assert all(count == 1 for text, count in seen.items() if text not in pictured)
    assert max(Counter(question.text for question in once).values()) == 1


@pytest.mark.slow
def test_a_sound_is_counted_once_however_many_pictures_it_is_asked_of(work: Path, tmp_path: Path) -> None:
    asked = spoken.spoken_questions(work, "test_heart", limit=12, num_pictures=3)
    with Engine(progress=False) as engine:
        result = spoken.evaluate_spoken(engine, tmp_path / "run", asked)
    assert result.num_asked == len({question.text for question in asked}) < 12
    assert result.num_about_pictures == sum(question.sample.scene is not None for question in asked)


def test_dialogues_are_asked_with_the_right_answers_before(tmp_path: Path) -> None:
    drawn = samples.draw_samples(200, "held_out", 3)
    cases = evaluation.typed_cases(drawn, evaluating.Media(tmp_path / "media"))
    assert {len(case.turns) for case in cases} > {0, 1}
    for case, sample in zip(cases, drawn, strict=True):
        told = [text for turn in case.turns for text in (turn.text, turn.reply)]
        assert [*told, case.text] == [text for _, text in sample.messages]
        assert case.references == (sample.answer,) and case.group == sample.topic
        pictures = [*(turn.image for turn in case.turns), case.image]
        assert (pictures[0] is not None) == (sample.scene is not None) and not any(pictures[1:])


def test_a_file_is_written_once(tmp_path: Path) -> None:
    [sample] = samples.draw_samples(1, "held_out", 3, pictures=1.0)
    assert sample.scene is not None
    media = evaluating.Media(tmp_path / "media")
    picture, sound = draw_picture(sample.scene, 64), np.zeros(160, np.float32)
    assert media.picture(picture) == media.picture(picture.copy())
    assert media.sound(sound, 16000) == media.sound(sound.copy(), 16000) != media.sound(sound + 0.1, 16000)
    assert len(list((tmp_path / "media").iterdir())) == 3


@pytest.fixture
def report() -> Report:
    cases = [asked(name, references=("one two",)) for name in "abc"]
    answers = answered(
        a={"text": "one two", "finish": "stop"},
        b={"text": "one two", "finish": "length"},
        c={"text": "three", "finish": "stop"},
    )
    return make_report(cases, Options("vqa"), {}, Records(answers, {}, {}, {}))


def test_an_answer_that_was_cut_is_not_right(report: Report) -> None:
    assert [evaluating.is_right(each) for each in report.scored] == [True, False, False]
    assert evaluating.right_per_cent(report) == pytest.approx(100 / 3)
    assert evaluating.right_per_cent(report, {"a", "b"}) == 50
    assert math.isnan(evaluating.right_per_cent(report, set()))
    assert evaluating.per_cent(report, "accuracy") == pytest.approx(200 / 3)
    assert evaluating.per_cent(report, "accuracy", {"c"}) == 0
    assert math.isnan(evaluating.per_cent(report, "dnsmos"))


@pytest.mark.parametrize(
    ("value", "is_most", "is_met"), [(4.9, True, True), (5.1, True, False), (5.1, False, True)]
)
def test_a_bar_is_met_from_its_own_side(value: float, is_most: bool, is_met: bool) -> None:
    assert examination.Figure("of something", value, 5, is_most, "%").is_met == is_met
    assert not examination.Figure("of nothing", math.nan, 5, is_most, "%").is_met
