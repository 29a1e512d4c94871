from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.inputs.chat import DEFAULT_SYSTEM, ChatLayout, Turn
from antiphon.prompt import IMAGE_ID
from antiphon.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def layout(tokenizer: Tokenizer, config: ModelConfig) -> ChatLayout:
    return ChatLayout(tokenizer, config)


def written(tokenizer: Tokenizer, ids: list[int]) -> str:
    """A prompt as text, its images as <image>."""
    texts = ("<image>" if i == IMAGE_ID else tokenizer.decode([i], skip_special_tokens=False) for i in ids)
    return "".join(texts)


def test_the_default_system_message(golden: dict[str, Any]) -> None:
    assert golden["system"] == DEFAULT_SYSTEM


def test_several_turns(layout: ChatLayout, tokenizer: Tokenizer) -> None:
    turns = [
        Turn("system", ("Be brief.",)),
        Turn("user", (" Hi. ", "Look:\n", (3, 63), "?"), num_images=2),
        Turn("assistant", ((0, 1),)),
        Turn("user", ("And?",)),
    ]
    assert written(tokenizer, layout.prompt_ids(turns)) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "<image>\n<image>\n Hi. Look:\n<Audio_3><Audio_63>?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<Audio_0><Audio_1><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_text_parts_are_tokenized_as_one(layout: ChatLayout) -> None:
    """Also with the newlines of the header: a reader of the parts one by one would find other merges."""
    whole = layout.prompt_ids([Turn("user", ("\n\nthe language",))])
    assert layout.prompt_ids([Turn("user", ("\n", "\nth", "e langu", "age"))]) == whole


def test_speaking_prompt(layout: ChatLayout, tokenizer: Tokenizer) -> None:
    assert written(tokenizer, layout.speaking_ids([])) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_units_count_from_the_first_unit_id(tokenizer: Tokenizer, config: ModelConfig) -> None:
    ids = ChatLayout(tokenizer, replace(config, first_unit_id=1000)).prompt_ids([Turn("user", ((5,),))])
    assert 1005 in ids


def test_an_error_names_the_place(layout: ChatLayout) -> None:
    with pytest.raises(InvalidRequest, match=r"^messages\[3\]\.content: .*<Audio_1>"):
        layout.prompt_ids([Turn("user", ("<Aud", "io_1>"), where="messages[3].content")])


def test_a_tokenizer_without_headers_is_refused(
    checkpoint: Path, tmp_path: Path, config: ModelConfig
) -> None:
    data = json.loads((checkpoint / "tokenizer.json").read_text())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<|end_header_id|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"<\|end_header_id\|>"):
        ChatLayout(Tokenizer.from_pretrained(tmp_path), config)
