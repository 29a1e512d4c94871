"""The examination of the embedded model: it runs on any checkpoint, and says which bars are met."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from antiphon import Engine
from antiphon_tiny import examination
from antiphon_tiny.omni import spoken_evaluation as spoken
from antiphon_tiny.speech import shards
from antiphon_tiny.world import samples

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
def test_any_checkpoint_can_be_examined(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "hear", lambda samples: "")
    monkeypatch.setattr(spoken, "dnsmos", lambda samples: 1.0)
    figures = {figure.name: figure for figure in examination.examine(None, None, work, num=NUM_ASKED)}
    assert len(figures) == 13
    assert all(math.isfinite(figure.value) or "right" in figure.name for figure in figures.values())
    heard = figures["reply as Whisper hears it, whole: word error"]
    assert heard.value == figures["reply as Whisper hears it, streamed: word error"].value
    assert not figures["DNSMOS, overall"].is_met
    report = json.loads((work / "reports" / "spoken.json").read_text())
    assert 0 < report["joe"]["num_asked"] <= 2 * NUM_ASKED
    assert len(json.loads((work / "reports" / "typed.json").read_text())["asked"]) == 2 * NUM_ASKED
    table = examination.show(list(figures.values()))
    assert table.row_count == 13


@pytest.mark.slow
@pytest.mark.long
def test_a_spoken_question_is_asked_of_several_pictures(work: Path) -> None:
    once = spoken.spoken_questions(work, "test_heart", limit=100)
    asked = spoken.spoken_questions(work, "test_heart", limit=300, num_pictures=3)
    seen = Counter(question.sample.turns[0].question for question in asked)
    pictured = {question.sample.turns[0].question for question in asked if question.sample.scene}
    each = {(q.sample.turns[0].question, q.sample.scene and q.sample.scene.key) for q in asked}
    assert len(each) == len(asked)
    assert max(seen.values()) == 3
    assert pictured
    assert all(count == 1 for text, count in seen.items() if text not in pictured)
    assert max(Counter(question.sample.turns[0].question for question in once).values()) == 1


@pytest.mark.slow
def test_a_sound_is_transcribed_once_however_many_pictures_it_is_asked_of(work: Path) -> None:
    asked = spoken.spoken_questions(work, "test_heart", limit=12, num_pictures=3)
    with Engine() as engine:
        result = spoken.ask(engine, asked)
    assert result.num_asked == len({question.sample.turns[0].question for question in asked}) < 12
    assert result.num_about_pictures == sum(question.sample.scene is not None for question in asked)


@pytest.mark.slow
def test_streamed_replies_are_judged_as_they_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[np.ndarray] = []

    def hear(samples: np.ndarray) -> str:
        heard.append(samples)
        return ""

    monkeypatch.setattr(spoken, "hear", hear)
    monkeypatch.setattr(spoken, "dnsmos", lambda samples: 1.0)
    with Engine() as engine:
        spoken.reply(engine, num=2, seed=200)
    for in_chunks, whole in zip(heard[::2], heard[1::2], strict=True):
        assert in_chunks.shape == whole.shape
        assert not np.array_equal(in_chunks, whole)  # each chunk is decoded with the context that there is


@pytest.mark.parametrize(
    ("value", "is_most", "is_met"), [(4.9, True, True), (5.1, True, False), (5.1, False, True)]
)
def test_a_bar_is_met_from_its_own_side(value: float, is_most: bool, is_met: bool) -> None:
    assert examination.Figure("of something", value, 5, is_most, "%").is_met == is_met
    assert not examination.Figure("of nothing", math.nan, 5, is_most, "%").is_met
