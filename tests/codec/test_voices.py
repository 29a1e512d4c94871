from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from antiphon.codec import Codec
from antiphon.codec.voices import Voice, VoiceTable, default_voice, read_voices
from antiphon.errors import CheckpointError, InvalidRequest


def test_voices_of_the_golden_codec(codec: Codec) -> None:
    assert codec.voices == ["英文女", "中文男"]
    assert codec.default_voice == "英文女"


def test_default_is_the_first_where_the_preferred_is_not() -> None:
    voice = Voice(torch.zeros(3))
    assert default_voice({"a": voice, "b": voice}) == "a"
    assert default_voice({"a": voice, "英文女": voice}) == "英文女"


def test_other_fields_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "spk2info.pt"
    torch.save({"a": {"embedding": torch.ones(1, 3).half(), "speech_feat": torch.zeros(1, 4, 80)}}, path)
    voice = read_voices(path, 3)["a"]
    assert voice.embedding.dtype == torch.float32
    assert voice.embedding.tolist() == [1, 1, 1]
    assert voice.prompt_units is None and voice.prompt_mel is None


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


def table() -> VoiceTable:
    return VoiceTable({"a": Voice(torch.zeros(3)), "b": Voice(torch.ones(3))})


def test_table_takes_and_forgets() -> None:
    voices, voice = table(), Voice(torch.ones(3))
    voices.add("me", voice)
    assert voices.names == ["a", "b", "me"]
    assert voices.get("me") is voice
    voices.remove("me")
    assert voices.names == ["a", "b"]
    voices.add("me", Voice(torch.ones(3)))
    assert voices.get("me") is not voice


def test_default_stays_whatever_is_added() -> None:
    voices = table()
    voices.add("英文女", Voice(torch.ones(3)))
    assert voices.default == "a"
    assert voices.get(None) is voices.get("a")


def test_names_read_before_stay_as_they_were() -> None:
    voices = table()
    names = voices.names
    voices.add("me", Voice(torch.ones(3)))
    assert names == ["a", "b"]


@pytest.mark.parametrize("name", ["", "  ", None, 5, b"me", ["me"]])
def test_what_is_no_name_is_refused(name: Any) -> None:
    voices = table()
    with pytest.raises(InvalidRequest, match="expected a name that is not empty"):
        voices.add(name, Voice(torch.ones(3)))
    with pytest.raises(InvalidRequest, match="expected a cloned one of none"):
        voices.remove(name)
    assert voices.names == ["a", "b"]


def test_names_that_are_taken_or_unknown_are_refused() -> None:
    voices = table()
    voices.add("me", Voice(torch.ones(3)))
    for name in ("a", "me"):
        with pytest.raises(InvalidRequest, match=f"expected a new name, got '{name}', which is taken"):
            voices.add(name, Voice(torch.ones(3)))
    for name in ("a", "nobody"):
        with pytest.raises(InvalidRequest, match=f"expected a cloned one of me, got '{name}'"):
            voices.remove(name)
    with pytest.raises(InvalidRequest, match="expected one of a, b, me, got 'nobody'"):
        voices.get("nobody")


def test_one_of_many_threads_gets_the_name() -> None:
    """And none of the others' names is lost."""
    voices = table()

    def take(i: int) -> bool:
        voices.add(f"own {i}", Voice(torch.ones(3)))
        try:
            voices.add("shared", Voice(torch.ones(3)))
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(200)))
    assert sum(taken) == 1
    assert len(voices.names) == 2 + 200 + 1
