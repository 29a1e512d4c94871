"""A recipe's text, however it is written, costs what its length allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from antiphon.codec import Codec
from antiphon.codec.checkpoint.recipe_nodes import Tagged, read_nodes
from antiphon.errors import CheckpointError

LAUGHS = "l0: &l0 [a,a,a,a,a,a,a,a,a,a]\n" + "".join(
    f"l{i}: &l{i} [" + ",".join([f"*l{i - 1}"] * 10) + "]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9, j: 10}\n" + "".join(
    f"m{i}: &m{i} {{<<: [" + ",".join([f"*m{i - 1}"] * 10) + "]}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("[1, -2, +3, 0x1F, 0b101, 017, 1_000, 0]", [1, -2, 3, 31, 5, 15, 1000, 0]),
        ("[1.5, .5, 1e3, 1.0e+3, .inf, 1e-06]", [1.5, 0.5, "1e3", 1000.0, float("inf"), "1e-06"]),
        ("[yes, True, off, ~, null, '', text]", [True, True, False, None, None, "", "text"]),
        ("a: &a {b: 1}\nc: *a", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: {<<: [{b: 1}, {b: 2, c: 3}]}", {"a": {"b": 1, "c": 3}}),
        ("2024-05-06", "2024-05-06"),  # a date
        ("1:30:00", "1:30:00"),  # of base 60
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert read_nodes(text) == value


def test_tags_are_kept_as_text() -> None:
    value = read_nodes("a: !new:os.system {b: 1}\nc: !apply:f [1]\nd: !ref <a>")
    assert all(isinstance(item, Tagged) for item in value.values())
    assert [(item.tag, item.value) for item in value.values()] == [
        ("new:os.system", {"b": 1}),
        ("apply:f", [1]),
        ("ref", "<a>"),
    ]


def test_aliases_share_one_value() -> None:
    value = read_nodes(LAUGHS)
    assert value["l11"][0] is value["l11"][9] is value["l10"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: {c: *a}}",
        "? [1]\n: 2",
        "? !foo [1]\n: 1",
        "? {a: 1}\n: 2",
        "{a: 1, a: 2}",
        "{<<: 5}",
        "{<<: [5]}",
        "!!python/object/apply:os.system [ls]",
        "!!python/name:os.system",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "a: 1\n---\nb: 2",
        "a: [1",
        "a: \0",
        "[" * 5000,
        "- " * 5000,
        "b: &b {" + ", ".join(f"k{i}: 0" for i in range(2000)) + "}\n" + "a: {<<: [" + "*b, " * 60 + "*b]}",
    ],
)
def test_what_is_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises((ValueError, yaml.YAMLError, RecursionError)):
        read_nodes(text)


@pytest.mark.parametrize(
    "number", ["9" * 5000, "1" + ":59" * 300, "1" + ":59" * 300 + ".5", "0x" + "f" * 9000]
)
def test_long_numbers_stay_text(number: str) -> None:
    assert read_nodes(f"a: {number}") == {"a": number}


RECIPES: dict[str, tuple[Callable[[str], str], str]] = {
    "aliases in an error's text": (lambda text: LAUGHS + "flow: *l11\n", "flow: expected !new:"),
    "aliases as a size": (
        lambda text: LAUGHS + text.replace("input_size: 64", "input_size: *l11", 1),
        "flow.input_size: expected an integer",
    ),
    "aliases as a key to nowhere": (
        lambda text: LAUGHS + text.replace("<sample_rate>", "*l11"),
        "cosyvoice.yaml",
    ),
    "num_blocks": (
        lambda text: text.replace("num_blocks: 2", "num_blocks: 1000000000"),
        "num_blocks: expected at",
    ),
    "n_blocks": (
        lambda text: text.replace("n_blocks: 1", "n_blocks: 1000000", 1),
        "n_blocks: expected at most",
    ),
    "all blocks": (
        lambda text: text.replace("n_blocks: 1", "n_blocks: 64").replace(
            "num_mid_blocks: 2", "num_mid_blocks: 64"
        ),
        "expected at most 512 transformers, found 4352",
    ),
    "sampling_ratios": (
        lambda text: text.replace("[1, 1, 1, 1]", "[" + "1," * 20_000 + "1]"),
        "sampling_ratios: expected a list of at most 64",
    ),
    "vocab_size": (
        lambda text: text.replace("vocab_size: 64", f"vocab_size: {2**63}"),
        "vocab_size: expected at",
    ),
    "channels": (lambda text: text.replace("[32, 32]", "[32, 1000000000]"), "channels: expected a list of 2"),
    "base_channels": (
        lambda text: text.replace("base_channels: 64", "base_channels: 1000000000"),
        "hift.base_channels: expected at most",
    ),
    "nb_harmonics": (
        lambda text: text.replace("nb_harmonics: 8", "nb_harmonics: 10000000"),
        "hift.nb_harmonics",
    ),
    "nsf_alpha": (
        lambda text: text.replace("nsf_alpha: 0.1", "nsf_alpha: 1" + "0" * 400),
        "nsf_alpha: expected",
    ),
    "unhashable key": (lambda text: "? !foo [1]\n: 1\n" + text, "a key that is not a plain value"),
    "too long": (lambda text: "# " + "x" * 2**17 + "\n" + text, "expected at most 131072 bytes"),
    "a long unknown key": (lambda text: text + "    ? " + "k" * 60_000 + "\n    : 1\n", "unknown key"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_without_end_are_refused_by_name(folder_copy: Path, case: str) -> None:
    change, message = RECIPES[case]
    path = folder_copy / "cosyvoice.yaml"
    path.write_text(change(path.read_text()))
    begin = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        Codec.from_pretrained(folder_copy, device="cpu")
    assert time.monotonic() - begin < 60
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [MERGES, LAUGHS, "a: 1" + ":59" * 20_000 + "\n", "a: 1:59.5\n"])
def test_what_a_recipe_does_not_use_may_be_as_it_likes(folder_copy: Path, more: str) -> None:
    path = folder_copy / "cosyvoice.yaml"
    path.write_text(more + path.read_text())
    assert Codec.from_pretrained(folder_copy, device="cpu").num_units_vocab == 64


@pytest.mark.parametrize("name", ["cosyvoice2.yaml", "cosyvoice3.yaml"])
def test_later_generations_are_named(folder_copy: Path, name: str) -> None:
    (folder_copy / "cosyvoice.yaml").rename(folder_copy / name)
    with pytest.raises(
        CheckpointError, match=rf"{name}: expected cosyvoice\.yaml of a first-generation CosyVoice"
    ):
        Codec.from_pretrained(folder_copy, device="cpu")
