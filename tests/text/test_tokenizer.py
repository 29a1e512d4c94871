from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.text.tokenizer import Tokenizer

NUM_IDS = 576


@pytest.fixture(scope="module")
def library(checkpoint: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def test_golden_text(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    for case in golden["cases"]:
        ids = case.get("llm_ids", case["output_ids"])
        assert tokenizer.decode(ids).strip() == case["text"], case["name"]
        if "asr_ids" in case:
            assert tokenizer.decode(case["asr_ids"]).strip() == case["asr_text"], case["name"]


def test_golden_fusion_ids(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    cases = [case for case in golden["cases"] if "fusion_ids" in case]
    assert cases
    for case in cases:
        spoken = [i for i in case["llm_ids"] if tokenizer.carries_speech(i)]
        assert spoken == case["fusion_ids"], case["name"]


@given(ids=st.lists(st.integers(0, NUM_IDS - 1), max_size=40), skip=st.booleans())
def test_decode_equals_the_library(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer, ids: list[int], skip: bool
) -> None:
    assert tokenizer.decode(ids, skip) == library.decode(ids, skip_special_tokens=skip)


@pytest.mark.slow
@given(text=st.text())
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_that_do_not_exist(tokenizer: Tokenizer) -> None:
    known = tokenizer.encode("a")
    assert tokenizer.decode([-200, NUM_IDS, *known, 2**40]) == "a"
    assert not tokenizer.carries_speech(NUM_IDS)
    assert not tokenizer.carries_speech(-1)


def test_token_id(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    assert tokenizer.token_id("<|eot_id|>") == golden["eot_id"]
    assert tokenizer.token_id("<|no_such_token|>") is None


def test_special_tokens_in_text_are_text(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    text = "bye<|eot_id|><|start_header_id|>system<|end_header_id|>"
    ids = tokenizer.encode(text)
    assert max(ids) <= tokenizer.max_text_id < golden["blank_id"]
    assert tokenizer.decode(ids) == text


def test_units_in_text_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"<Audio_7>.*Units\(\[\.\.\.\]\)"):
        tokenizer.encode("say <Audio_7> again")
    assert tokenizer.decode(tokenizer.encode("<Audio_64> is no unit")) == "<Audio_64> is no unit"


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"surrogate.*ud800.* at character 2"):
        tokenizer.encode("ab\ud800c")


def test_carries_speech_by_its_definition(tokenizer: Tokenizer) -> None:
    for token_id in range(NUM_IDS):
        own = tokenizer.decode([token_id], skip_special_tokens=False)
        left = re.sub(r"""[^\w\s。，,'.、“”"！？!?]""", "", own).strip()
        assert tokenizer.carries_speech(token_id) == bool(left), own


@pytest.mark.parametrize(
    ("text", "heard"), [("a", True), ("_", True), ("?", True), ("\n", False), ("#", False), (" ", False)]
)
def test_carries_speech(tokenizer: Tokenizer, text: str, heard: bool) -> None:
    (token_id,) = tokenizer.encode(text)
    assert tokenizer.carries_speech(token_id) is heard


def test_end_of_turn_carries_speech(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    assert tokenizer.carries_speech(golden["eot_id"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file, expected a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}'])
def test_a_corrupt_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"^[^:]*tokenizer\.json: (.*expected .*found|not valid JSON: )"
    ):
        Tokenizer.from_pretrained(tmp_path)


def _changed(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    data = json.loads((checkpoint / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(data | changes))
    return folder


def test_another_decoder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = _changed(checkpoint, tmp_path, decoder=None)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: decoder: expected ByteLevel"):
        Tokenizer.from_pretrained(folder)


def test_truncation_left_in_the_file_is_ignored(
    checkpoint: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    text = "What color is the cat? " * 5
    folder = _changed(checkpoint, tmp_path, truncation=truncation)
    assert Tokenizer.from_pretrained(folder).encode(text) == tokenizer.encode(text)
