"""The world that the embedded model is trained on: splits, answers, words."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.checkpoint.folder import read_config
from antiphon.text.tokenizer import Tokenizer
from antiphon_tiny.omni import conversations, files, geometry, pictures
from antiphon_tiny.omni.tokenizer import write_tokenizer
from antiphon_tiny.world import looking, picture, samples, split, words
from antiphon_tiny.world import scene as scene_module


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, num_units=8)
    return Tokenizer.from_pretrained(folder)


def test_the_same_seed_draws_the_same() -> None:
    assert samples.draw_samples(50, "train", 3) == samples.draw_samples(50, "train", 3)
    assert samples.draw_samples(50, "train", 3) != samples.draw_samples(50, "train", 4)


def test_training_sees_no_question_and_no_picture_that_is_held_out() -> None:
    train = samples.draw_samples(4000, "train", 0)
    asked = {turn.question for sample in train for turn in sample.turns if not turn.fixed}
    shown = {sample.scene.key for sample in train if sample.scene}
    for sample in samples.draw_samples(400, "held_out", 0):
        last = sample.turns[-1]
        assert last.fixed or last.question not in asked
        assert sample.scene is None or sample.scene.key not in shown


def test_training_says_no_answer_that_is_held_out_unless_it_is_listed() -> None:
    for sample in samples.draw_samples(2000, "train", 1):
        for turn in sample.turns:
            assert turn.closed or not split.is_held_out(turn.answer)


def test_answers_rest_on_the_shapes_that_they_tell_of() -> None:
    numbers = {words.number(n): n for n in range(1, 6)}
    told = 0
    for sample in samples.draw_samples(1500, "train", 5, pictures=1.0):
        for turn in sample.turns:
            said = turn.answer.rstrip(".").split()
            shapes = turn.rests_on
            assert sample.scene is not None
            assert set(shapes) <= set(sample.scene.shapes)
            if turn.answer.startswith(("There is no", "There are no")):
                told += 1
                assert shapes == ()
            elif turn.answer.startswith("There are") and said[2] in numbers:
                told += 1
                assert len(shapes) == numbers[said[2]]
            elif turn.answer.startswith("It is") and said[2] in words.COLOURS:
                told += 1
                assert [shape.colour for shape in shapes] == [said[2]]
            elif turn.topic == "place" and turn.answer.startswith("It is"):
                told += 1
                assert [shape.place for shape in shapes] == [" ".join(said[2:])]
    assert told > 600


@pytest.mark.slow
@pytest.mark.long
def test_patches_to_look_at_hold_those_shapes(tmp_path: Path) -> None:
    files.write_skeleton(tmp_path, geometry.GEOMETRY)
    config = read_config(tmp_path, load_format="dummy")
    layout = conversations.Layout(Tokenizer.from_pretrained(tmp_path), config, geometry.GEOMETRY.side**2)
    reader = pictures.PictureReader(geometry.GEOMETRY, config)
    for sample in samples.draw_samples(40, "train", 6, pictures=1.0):
        batch = layout.batch([conversations.Row([layout.branch(sample)], 0)])
        shown = batch.looks[0].sum(-1)
        assert set(shown.round(decimals=4).unique().tolist()) <= {0.0, 1.0}
        assert not shown[batch.targets[0] < 0].any()
        assert sample.scene is not None
        there = reader.labels([sample.scene])[0, :, 1] >= 0
        assert there[(batch.looks[0] > 0).any(0)].all()
        assert bool(shown.any()) == any(turn.rests_on for turn in sample.turns)


def test_sentences_of_the_splits_are_different() -> None:
    train = {sentence.text for sentence in samples.draw_sentences(3000, "train", 0)}
    held_out = {sentence.text for sentence in samples.draw_sentences(300, "held_out", 0)}
    assert len(train) == 3000
    assert len(held_out) == 300
    assert not train & held_out


@given(st.integers(0, 2**32))
def test_counts_are_right(seed: int) -> None:
    rng = random.Random(seed)
    scene = scene_module.draw_scene(rng)
    turn = looking.count(rng, scene)
    group = re.fullmatch(r"(?:How many|Count the) (.*?)(?: are.*| do.*| can.*)?[.?]", turn.question)
    assert group is not None
    wanted = group[1].split()
    singular = {words.plural(kind): kind for kind in words.KINDS} | {"shapes": None}
    found = [
        shape
        for shape in scene.shapes
        if singular[wanted[-1]] in (None, shape.kind)
        and all(word in (shape.colour, shape.size) for word in wanted[:-1])
    ]
    said = turn.answer.split()[2]
    assert words.NUMBERS[len(found)] == said.replace("no", "zero")


@given(st.integers(0, 2**32))
def test_shapes_lie_in_the_picture_apart_and_where_they_are_said_to_be(seed: int) -> None:
    scene = scene_module.draw_scene(random.Random(seed))
    side = min(scene.width, scene.height)
    for i, shape in enumerate(scene.shapes):
        x, y, radius = shape.x * scene.width, shape.y * scene.height, shape.radius * side
        assert radius <= x <= scene.width - radius
        assert radius <= y <= scene.height - radius
        assert (int(shape.y * 3), int(shape.x * 3)) == (shape.row, shape.column)
        for other in scene.shapes[:i]:
            dx, dy = x - other.x * scene.width, y - other.y * scene.height
            assert (dx * dx + dy * dy) ** 0.5 > radius + other.radius * side


def test_a_picture_shows_its_colours() -> None:
    rng = random.Random(0)
    for _ in range(40):
        scene = scene_module.draw_scene(rng)
        image = picture.draw_picture(scene)
        for shape in scene.shapes:
            found = image.getpixel((int(shape.x * image.width), int(shape.y * image.height)))
            assert isinstance(found, tuple)
            usual = picture.RGB[shape.colour]
            assert all(abs(a - b) <= picture.SHADE + 1 for a, b in zip(found, usual, strict=True))


@pytest.mark.slow
@pytest.mark.long
def test_every_word_of_the_world_is_one_token(tokenizer: Tokenizer) -> None:
    for part in ("train", "held_out"):
        for sample in samples.draw_samples(500, part, 5):
            for turn in sample.turns:
                for text in (turn.question, turn.answer):
                    spoken = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
                    assert "".join(spoken) == text
                    assert len(spoken) == len(re.findall(r"[\w']+|[.?]", text))


@pytest.mark.slow
@pytest.mark.long
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_spelled(tokenizer: Tokenizer, text: str) -> None:
    if "<Audio_" not in text:
        assert tokenizer.decode(tokenizer.encode(text)) == text
