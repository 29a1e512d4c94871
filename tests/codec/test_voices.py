from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from antiphon.codec import Codec
from antiphon.codec.voices import default_voice, read_voices
from antiphon.errors import CheckpointError


def test_voices_of_the_golden_codec(codec: Codec) -> None:
    assert codec.voices == ["英文女", "中文男"]
    assert codec.default_voice == "英文女"


def test_default_is_the_first_where_the_preferred_is_not() -> None:
    embedding = torch.zeros(3)
    assert default_voice({"a": embedding, "b": embedding}) == "a"
    assert default_voice({"a": embedding, "英文女": embedding}) == "英文女"


def test_other_fields_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "spk2info.pt"
    torch.save({"a": {"embedding": torch.ones(1, 3).half(), "speech_feat": torch.zeros(1, 4, 80)}}, path)
    voices = read_voices(path, 3)
    assert voices["a"].dtype == torch.float32
    assert voices["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "at least one voice"),
        ([1], "at least one voice"),
        ({"a": {}}, "tensor `embedding`"),
        ({"a": torch.zeros(3)}, "tensor `embedding`"),
        ({5: {"embedding": torch.zeros(3)}}, "expected a name"),
        ({"a": {"embedding": torch.zeros(4)}}, r"expected 3 floating point numbers, found \(4,\)"),
        ({"a": {"embedding": torch.zeros(3, dtype=torch.int64)}}, "floating point"),
        ({"a": {"embedding": torch.tensor([0, 1, float("nan")])}}, "NaN"),
    ],
)
def test_broken_voices_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "spk2info.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        read_voices(path, 3)
    assert "spk2info.pt" in str(error.value)
