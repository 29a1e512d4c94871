"""A tokenizer.json may be anything; the library that reads it must not be brought to panic or to abort."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.text import tokenizer_file
from antiphon.text.tokenizer import Tokenizer
from antiphon.text.tokenizer_file import read_tokenizer


@pytest.fixture(scope="module")
def values(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "tokenizer.json").read_text())
    return content


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def replace_each(content: str, times: int) -> dict[str, Any]:
    part = {"type": "Replace", "pattern": {"Regex": "."}, "content": content}
    return {"type": "Sequence", "normalizers": [part] * times}


def split(pattern: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


NESTED: dict[str, Any] = {"type": "NFC"}
for _ in range(200):
    NESTED = {"type": "Sequence", "normalizers": [NESTED]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # abort or panic of the library
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
            "normalizer: expected one",
        ),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "normalizer: expected one"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pre_tokenizer: expected one of ByteLevel"),
        ({"decoder": {"type": "CTC"}}, "decoder: expected ByteLevel"),
        ({"decoder": {"type": "Sequence", "decoders": []}}, "decoder: expected ByteLevel"),
        # text without bound
        ({"normalizer": replace_each("a" * 16, 6)}, "at most 64 times longer"),
        ({"normalizer": replace_each("a" * 1000, 1)}, "a text of at most 64 characters"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 65}}, "a text of at most 64 characters"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 2}},
            "at most 64 times longer",
        ),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}}, "at most 64 parts"),
        ({"normalizer": {"type": "Sequence", "normalizers": 5}}, "normalizer.normalizers: expected a list"),
        ({"normalizer": 5}, "normalizer: expected an object, found 5"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [5]}}, "pre_tokenizer: expected an object"),
        # regular expressions
        ({"pre_tokenizer": split({"Regex": ""})}, "pre_tokenizer.pattern: expected a String or Regex"),
        (
            {"pre_tokenizer": split({"Regex": "a" * 3000})},
            "pre_tokenizer.pattern: expected a String or Regex",
        ),
        ({"pre_tokenizer": split({"Regex": "("})}, "expected regular expressions that end within bounds"),
        ({"pre_tokenizer": split({"Other": "a"})}, "pre_tokenizer.pattern: expected a String or Regex"),
        ({"pre_tokenizer": split("a")}, "pre_tokenizer.pattern: expected an object"),
        # others
        ({"model": None}, "model: expected an object"),
        ({"model": {"type": "Unigram", "vocab": []}}, "model.type: expected 'BPE'"),
        (
            {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}},
            "model.unk_token: expected",
        ),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}}}, "model.unk_token: expected"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "model.vocab.a: expected an id"),
        ({"model": {"type": "BPE", "vocab": {"a": 2**32}, "merges": []}}, "model.vocab.a: expected an id"),
        ({"model": {"type": "BPE", "vocab": {"a": True}, "merges": []}}, "model.vocab.a: expected an id"),
        ({"model": {"type": "BPE", "vocab": ["a"], "merges": []}}, "model.vocab: expected an object"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "expected a tokenizer file"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 5}}, "model.merges: expected a list"),
        ({"added_tokens": 5}, "added_tokens: expected a list"),
        ({"added_tokens": [{"id": 5}]}, "added_tokens: expected objects with a string as content"),
        ({"added_tokens": [{"id": -5, "content": "a"}]}, "added_tokens.a: expected an id"),
    ],
)
def test_what_the_library_must_not_see_is_refused(
    tmp_path: Path, values: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_pretrained(write(tmp_path, values | change))
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("continuing_subword_prefix", "##", "expected null"),
        ("end_of_word_suffix", "</w>", "expected null"),
        ("dropout", 0.5, "expected null"),
        ("dropout", "all", "expected null"),
        ("unk_token", "[UNK]", "expected a token of the vocabulary"),
        ("unk_token", 5, "expected a token of the vocabulary"),
    ],
)
def test_settings_of_bpe(tmp_path: Path, values: dict[str, Any], key: str, value: Any, message: str) -> None:
    folder = write(tmp_path, values | {"model": values["model"] | {key: value}})
    with pytest.raises(CheckpointError, match=rf"model\.{key}: {message}"):
        Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "pattern", ["(?:(?:(?:(?:a{100}){100}){100}){100})", "(a+)+$|(?<=(?:a|b){1,50000})c"]
)
def test_unknown_regular_expressions_are_tried_in_a_process_of_their_own(
    tmp_path: Path, values: dict[str, Any], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they cost cannot be told by looks: they are taken or refused, and this process pays nothing."""
    monkeypatch.setattr(tokenizer_file, "TRIAL_S", 2.0)
    folder = write(tmp_path, values | {"pre_tokenizer": split({"Regex": pattern})})
    with suppress(CheckpointError):
        read_tokenizer(folder / "tokenizer.json")


def test_the_trial_refuses_what_takes_too_long(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_file, "TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(tokenizer_file, "TRIAL_S", 0.2)
    folder = write(tmp_path, values | {"pre_tokenizer": split({"Regex": "[a-c]"})})
    with pytest.raises(CheckpointError, match=r"found some still running after 0\.2 s"):
        read_tokenizer(folder / "tokenizer.json")


def test_deep_nesting_is_taken_apart(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="expected a tokenizer file"):
        read_tokenizer(write(tmp_path, values | {"normalizer": NESTED}) / "tokenizer.json")


def byte_level(regex: str | None) -> LibraryTokenizer:
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = LibraryTokenizer(models.BPE(letters, []))
    tokenizer.decoder = decoders.ByteLevel()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    tokenizer.pre_tokenizer = level
    if regex is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.Digits(), level]
        )
    return tokenizer


@pytest.mark.parametrize("regex", [None, "[a-z]+|[^a-z]+"])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.Replace("ab", "ba")])
def test_other_byte_level_tokenizers_are_read(
    tmp_path: Path, regex: str | None, normalizer: normalizers.Normalizer | None
) -> None:
    """GPT-2's own way, Qwen's normalization, and unknown regular expressions."""
    library = byte_level(regex)
    if normalizer is not None:
        library.normalizer = normalizer
    library.save(str(tmp_path / "tokenizer.json"))
    text = "Abba cab, 123 \u00e9\n"
    assert Tokenizer.from_pretrained(tmp_path).encode(text) == library.encode(text).ids


def test_a_tokenizer_that_panics_on_some_text_ends_that_request_alone(values: dict[str, Any]) -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    class Panicking:
        """A tokenizer of the library that panics on "boom"."""

        def __init__(self) -> None:
            self._tokenizer = LibraryTokenizer.from_str(json.dumps(values))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def encode(self, text: str, **options: Any) -> Any:
            if "boom" in text:
                raise PanicException("slice index\nout of range")
            return self._tokenizer.encode(text, **options)

    tokenizer = Tokenizer(Panicking())  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="the tokenizer fails: slice index out of range"):
        tokenizer.encode("boom")
    assert tokenizer.encode("a")
