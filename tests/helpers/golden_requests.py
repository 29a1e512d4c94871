"""The small golden checkpoint: its tokenizer, its config, and the requests it was asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints import RANDOM_MODEL

from antiphon.config import ModelConfig
from antiphon.model.checkpoint.folder import read_config
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import Image, Part, Request, Units

GOLDEN = Path(__file__).parents[1] / "golden" / "omni_a"


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return RANDOM_MODEL


@pytest.fixture(scope="session")
def config(checkpoint: Path) -> ModelConfig:
    return read_config(checkpoint)


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """The golden requests, each with the `Request` that asks the same."""
    data: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())
    for case in data["cases"]:
        case["request"] = _request(case)
    return data


def _request(case: dict[str, Any]) -> Request:
    parts: list[Part] = [Image(GOLDEN / "images" / f"{name}.png") for name in case["images"]]
    user = case["user"].removeprefix("<image>\n" * len(parts))
    units = [int(number) for number in re.findall(r"<Audio_(\d+)>", user)]
    parts.append(Units(units) if units else user)
    return Request(parts, ("text", "audio") if case["mode"].endswith("to_speech") else ("text",))
