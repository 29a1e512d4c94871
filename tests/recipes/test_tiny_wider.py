"""The embedded model's last training: wordings from parts, words of all kinds, drawings in many styles."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.codec.checkpoint.hyperparams import HOP
from antiphon_tiny import stages
from antiphon_tiny.omni import (
    mixing,
    speaking_training,
    spoken,
    whole,
    wider_hearing,
    wider_speech,
    wider_thinking,
    wider_training,
)
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.parts import MODEL, part_of
from antiphon_tiny.omni.tower import Reader
from antiphon_tiny.outside.questions import questions
from antiphon_tiny.speech import codec_folder, train_vocoder, unit_encoder, wider_sentences
from antiphon_tiny.world import free, phrasing, samples, scene, styles, wordings
from antiphon_tiny.world.knowing import FACTS, UNKNOWN
from antiphon_tiny.world.split import is_held_out
from antiphon_tiny.world.words import NUMBERS, words_of

TURNS = [turn for sample in samples.draw_samples(1500, "train", 3) for turn in sample.turns]
EXAMINED = {" ".join(words_of(question.text)) for question in questions()}


def test_the_seed_decides() -> None:
    first, again, other = (
        [wordings.as_asked(rng, turn.question) for turn in TURNS] for rng in map(random.Random, (0, 0, 1))
    )
    assert first == again
    assert np.mean([a != b for a, b in zip(first, other, strict=True)]) > 0.9


def test_every_kind_of_question_has_many_wordings() -> None:
    rng = random.Random(0)
    asked = {intent[0]: turn for turn in TURNS if (intent := phrasing.intent_of(turn.question))}
    assert len(asked) > 45
    for name, turn in asked.items():
        found = {phrasing.phrased(rng, turn.question) for _ in range(60)}
        assert len(found) > 4, name
        assert not any(mark in text for text in found for mark in "[]{}|"), name
        assert all(text[0].isupper() and text[-1] in ".?" for text in found), name


def test_questions_without_other_wordings_are_those_without_an_answer() -> None:
    topics = {turn.topic for turn in TURNS if phrasing.intent_of(turn.question) is None}
    assert topics == {"unknown"}


def test_nothing_of_the_examination_is_made_and_a_split_is_kept() -> None:
    rng = random.Random(1)
    for turn in TURNS:
        for held_out in (False, True):
            text = phrasing.phrased(rng, turn.question, held_out=held_out)
            if text != turn.question:
                assert " ".join(words_of(text)) not in EXAMINED
                assert is_held_out(text) == held_out


def test_one_intent_is_asked_in_all_its_ways() -> None:
    assert phrasing.intent_of("Tell me what three plus four is.") == ("plus", "three", "four")
    assert phrasing.intent_of("Now what makes three plus four?") == ("plus", "three", "four")
    assert phrasing.intent_of("How many red stars do you see?") == phrasing.intent_of("Count the red stars.")
    assert phrasing.intent_of("What is the capital of Spain?") == ("capital", "Spain")
    assert phrasing.intent_of("Who is the king of Russia?") is None


@pytest.mark.parametrize("question", ["What is three plus nine?", "What is nine minus three?"])
def test_sums_keep_their_numbers(question: str) -> None:
    rng = random.Random(2)
    for _ in range(300):
        text = phrasing.phrased(rng, question).replace("One, two, three", "")
        said = [word for word in words_of(text) if word in NUMBERS and word != "one"]
        assert sorted(said) == ["nine", "three"], text


def test_what_is_said_after_somebody_is_all_there() -> None:
    rng = random.Random(3)
    for _ in range(300):
        turn = free.say_free(rng)
        words = words_of(turn.answer)
        asked = words_of(phrasing.phrased(rng, turn.question))
        assert any(asked[i : i + len(words)] == words for i in range(len(asked)))
        assert not is_held_out(turn.answer)


def test_what_nobody_can_answer_is_of_many_kinds() -> None:
    rng = random.Random(4)
    asked = [free.ask_beyond(rng) for _ in range(500)]
    assert {turn.answer for turn in asked} == {UNKNOWN}
    assert len({turn.question for turn in asked}) > 480
    assert len({turn.question.split()[0] for turn in asked}) > 25
    known = {question for forms, _ in FACTS for question in forms}
    assert not known & {turn.question for turn in asked}


def test_conversations_remember_names_and_say_what_they_hear() -> None:
    rng = random.Random(5)
    drawn = [free.draw_free(rng) for _ in range(1000)]
    topics = Counter(sample.topic for sample in drawn)
    assert topics["say"] > 150
    assert topics["outside"] > 120
    remembered = [sample for sample in drawn if sample.topic == "name asked" and len(sample.turns) > 1]
    assert len(remembered) > 100
    names = {sample.answer.rstrip(".").split()[-1] for sample in remembered}
    assert len(names) > 60
    assert any(len(sample.turns) == 3 for sample in remembered)


def test_what_is_spoken_has_all_of_it() -> None:
    rng = random.Random(6)
    rows = [wider_sentences.draw_wider(rng, 0.3) for _ in range(1500)]
    topics = Counter(row.get("topic") for row in rows)
    assert min(topics[topic] for topic in ("picture", "say", "name", "name asked", "outside", "follow")) > 15
    assert 300 < topics[None] < 800
    assert all(row["answer"] is None for row in rows if row.get("topic") in ("picture", "follow"))
    assert not EXAMINED & {" ".join(words_of(row["text"])) for row in rows if "asks" in row}


def test_every_picture_has_a_style_of_its_own() -> None:
    rng = random.Random(7)
    one = scene.draw_scene(rng)
    drawn = [np.asarray(styles.draw_styled(one, random.Random(seed), 96)) for seed in range(40)]
    assert len({picture.tobytes() for picture in drawn}) == 40
    assert {max(picture.shape[:2]) for picture in drawn} == {96}
    again = np.asarray(styles.draw_styled(one, random.Random(3), 96))
    assert np.array_equal(drawn[3], again)
    grounds = [int(np.median(picture)) for picture in drawn]
    assert min(grounds) < 80
    assert max(grounds) > 230


@pytest.mark.parametrize("colour", sorted(styles.TONES))
def test_every_shape_is_seen_on_its_ground(colour: str) -> None:
    for seed in range(60):
        shape = scene.Shape("cross", colour, "big", 1, 1, 0.5, 0.5, 0.18)
        picture = styles.draw_styled(scene.Scene((shape,), 1, 1, 0), random.Random(seed), 96)
        levels = np.asarray(picture).astype(int)
        assert np.abs(levels - levels[0, 0]).max() > 30


ROWS = (
    {"text": "What is red?", "asks": "What is red?", "answer": None, "topic": "picture"},
    {"text": "What is it", "asks": "What do you see?", "answer": None, "topic": "picture"},
    {
        "text": "Two and three?", "asks": "What is two plus three?", "answer": "Two plus three is five.",
        "topic": "sum",
    },
    {"text": "Plus one?", "asks": "And plus one?", "answer": None, "topic": "follow"},
    {"text": "I am Zoe.", "asks": "My name is Zoe.", "answer": "Hello Zoe.", "topic": "name"},
    {"text": "Who am I?", "asks": "What is my name?", "answer": "Your name is Zoe.", "topic": "name asked"},
    {"text": "Say a b.", "asks": "Say a b.", "answer": "A b.", "topic": "say"},
    {"text": "A b."},
)  # fmt: skip


@pytest.fixture(scope="module")
def work(skeleton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is that the stage starts from, untrained, and a handful of recordings."""
    folder: Path = tmp_path_factory.mktemp("wider")
    shutil.copytree(skeleton, folder / "skeleton")
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for i in range(160):
        units = [rng.randrange(1000) for _ in range(40)]
        row = {**ROWS[i % len(ROWS)], "voice": "hibari" if i % 3 else "flite", "units": units}
        rows.append({**row, "said": units[::-1]} if i % 3 else row)
    rows += [{"text": "A b. " * 9, "voice": "hibari", "units": rows[0]["units"] * 6, "long": True}] * 4
    (folder / "wider-data").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    (folder / "wider-data" / "heart-0000.jsonl").write_text(lines + "\n")
    (folder / "wider-data" / "plain_heart-0000.jsonl").write_text(
        "\n".join(map(json.dumps, rows[:20])) + "\n"
    )
    torch.manual_seed(0)
    model = speaking_training.Speaking(stages.Run(folder))
    state = model.state_dict() | {f"reader.{k}": v for k, v in Reader(GEOMETRY).state_dict().items()}
    (folder / "together").mkdir()
    torch.save({"module": state}, folder / "together" / "state.pt")
    return folder


def test_spoken_conversations_are_made_of_recordings(work: Path) -> None:
    layout = wider_training.WiderListening(stages.Run(work)).layout
    speech = wider_speech.WiderSpeech(work, layout)
    rng = random.Random(1)
    found: dict[str, int] = Counter()
    for _ in range(20):
        for one in speech.draw_spoken(rng, 8):
            found[one.sample.topic] += 1
            assert len(one.sample.turns) == len(one.questions)
            if one.sample.topic == "sum after":
                assert one.sample.answer == "Five plus one is six."
                assert [said.text for said in one.questions] == ["Two and three?", "Plus one?"]
            if one.sample.topic == "name asked":
                assert one.sample.answer == "Your name is Zoe."
                assert one.questions[0].text in ("I am Zoe.", "I am Zoe. Who am I?")
                assert (len(one.questions) == 1) == (one.questions[0].text != "I am Zoe.")
            if one.sample.topic == "say":
                assert one.sample.answer == "A b."
    assert {"sum after", "name asked", "say", "sum", "kind", "describe"} <= found.keys()
    assert len(speech.draw_long(rng).units) >= 200


def test_what_is_measured_is_not_trained_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither these recordings nor others of the same words."""
    monkeypatch.setattr(wider_speech, "TESTED", 5)
    layout = wider_training.WiderListening(stages.Run(work)).layout
    speech = wider_speech.WiderSpeech(work, layout)
    heard, said = ({one.text for one in part} for part in (speech.heard, speech.own))
    tests = speech.heard_tests(100)
    assert any(tests.values())
    assert all(one.text not in heard for part in tests.values() for one in part)
    assert speech.said_tests(100)
    assert all(one.text not in said for one in speech.said_tests(100))


@pytest.mark.slow
@pytest.mark.long
def test_a_few_steps(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All losses are there, every part moves, and what was interrupted goes on."""
    rows = {
        "TYPED_ROWS": (2, 2),
        "PICTURE_ROWS": (1, 1),
        "HEARD_ROWS": (2, 2),
        "SPOKEN_ROWS": 2,
        "SAID_ROWS": 2,
    }
    for name, size in (rows | {"FIRST_STEPS": 1}).items():
        monkeypatch.setattr(wider_training, name, size)
    monkeypatch.setattr(wider_training, "NUM_TESTED", 2)
    wider_training.train_wider(stages.Run(work, num_steps=2))
    first = torch.load(work / "wider" / "state.pt", weights_only=True)
    assert first["step"] == 2
    started = torch.load(work / "together" / "state.pt", weights_only=True)["module"]
    moved = {name.split(".")[2] for name in started if not torch.equal(started[name], first["module"][name])}
    assert {"vision_tower", "layers", "bottom_audio_layers", "top_audio_layers"} <= moved
    wider_training.train_wider(stages.Run(work, num_steps=3))
    assert torch.load(work / "wider" / "state.pt", weights_only=True)["step"] == 3
    assert any(
        "held-out wordings %" in row for row in json.loads((work / "wider" / "losses.json").read_text())
    )

    mixing.mix(stages.Run(work))
    mixed = torch.load(work / "mixed" / "state.pt", weights_only=True)["module"]
    later = torch.load(work / "wider" / "state.pt", weights_only=True)["module"]
    for name, tensor in mixed.items():
        own = name.startswith(MODEL)
        share = mixing.LATER[part_of(name.removeprefix(MODEL))] if own else mixing.READER
        assert torch.equal(tensor, torch.lerp(started[name], later[name], share))


def trained(work: Path, stage: str) -> tuple[dict[str, torch.Tensor], set[str]]:
    """A stage's tensors, and the parts of which some are no longer those of "mixed"."""
    module, before = (
        torch.load(work / name / "state.pt", weights_only=True)["module"] for name in (stage, "mixed")
    )
    return module, {
        part_of(name.removeprefix(MODEL))
        for name in module
        if name.startswith(MODEL) and not torch.equal(module[name], before[name])
    }


@pytest.mark.slow
@pytest.mark.long
def test_parts_go_on_alone_and_are_put_together(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (wider_hearing, wider_thinking):
        monkeypatch.setattr(stage, "NUM_TESTED", 2)
    for name, size in {"ROWS": 2, "SAID_ROWS": 2, "SAID_EVERY": 2}.items():
        monkeypatch.setattr(wider_hearing, name, size)
    for name, size in {"TYPED_ROWS": 2, "PICTURE_ROWS": 1, "SPOKEN_ROWS": 2}.items():
        monkeypatch.setattr(wider_thinking, name, size)
    (work / "mixed").mkdir(exist_ok=True)
    shutil.copy(work / "together" / "state.pt", work / "mixed" / "state.pt")
    run = stages.Run(work, num_steps=3)
    wider_hearing.train_wider_hearing(run)
    hearing, moved = trained(work, "hearing-wider")
    assert moved == {"hearing", "speaking"}
    wider_thinking.train_wider_thinking(run)
    thinking, moved = trained(work, "thinking-wider")
    assert moved == {"hearing", "speaking", "thinking"}
    monkeypatch.setitem(whole.LATER, "hearing", ("hearing-wider", 0.5))
    whole.assemble(run)
    found, moved = trained(work, "whole")
    assert moved == {"hearing", "thinking"}
    before = torch.load(work / "mixed" / "state.pt", weights_only=True)["module"]
    for name, tensor in found.items():
        part = part_of(name.removeprefix(MODEL)) if name.startswith(MODEL) else "reader"
        if part == "seeing":
            assert torch.equal(tensor, before[name])
        elif part == "reader":
            assert torch.equal(tensor, thinking[name])
        else:
            later = thinking if part == "thinking" else hearing
            assert torch.equal(tensor, torch.lerp(before[name], later[name], whole.LATER[part][1]))


def test_moved_units_are_neighbours() -> None:
    said = spoken.Utterance("A b.", list(range(1000)), [1, 2])
    rng = random.Random(3)
    coordinates = unit_encoder.unit_coordinates()
    steps = torch.tensor([2 / (levels - 1) for levels in unit_encoder.LEVELS])
    shares = []
    for _ in range(20):
        other = wider_hearing.moved(said, rng)
        assert (other.text, other.text_ids, len(other.units)) == (said.text, said.text_ids, 1000)
        apart = ((coordinates[other.units] - coordinates).abs() / steps).round().sum(1)
        assert set(apart.tolist()) <= {0, 1}
        shares.append(apart.mean().item())
    assert max(shares) <= wider_hearing.MOVED + 0.03
    assert max(shares) > wider_hearing.MOVED / 2


def test_the_exported_vocoder_is_louder_by_its_gain_and_otherwise_the_same() -> None:
    torch.manual_seed(1)
    hift = train_vocoder.new_vocoder().eval()
    mel, source = torch.randn(80, 30), 0.1 * torch.randn(HOP * 30)
    with torch.inference_mode():
        [plain] = hift([mel], [source])
        [loud] = codec_folder.louder(hift)([mel], [source])
    assert float(plain.abs().max()) > 1e-3
    torch.testing.assert_close(loud, codec_folder.GAIN * plain, rtol=1e-4, atol=1e-5)
