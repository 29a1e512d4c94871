"""The settings of turn detection are checked, and their defaults are those of OpenAI's clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from antiphon.errors import InvalidRequest
from antiphon.turns.settings import TurnDetection


def test_defaults() -> None:
    settings = TurnDetection()
    assert (settings.kind, settings.threshold) == ("server_vad", 0.5)
    assert (settings.prefix_padding_ms, settings.silence_duration_ms) == (300, 500)
    assert settings.create_response and settings.interrupt_response and settings.idle_timeout_ms is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kind", "vad", "kind: expected one of server_vad, semantic_vad, got 'vad'"),
        ("kind", None, "kind: expected one of server_vad, semantic_vad, got None"),
        ("threshold", 1.5, "threshold: expected a number >= 0 and <= 1, got 1.5"),
        ("threshold", float("nan"), "threshold: expected a number >= 0 and <= 1, got nan"),
        ("threshold", "0.5", "threshold: expected a number >= 0 and <= 1, got '0.5'"),
        ("prefix_padding_ms", -1, "prefix_padding_ms: expected an integer >= 0 and <= 10000, got -1"),
        ("prefix_padding_ms", 0.5, "prefix_padding_ms: expected an integer >= 0 and <= 10000, got 0.5"),
        ("silence_duration_ms", 60_001, "silence_duration_ms: expected an integer >= 0 and <= 60000"),
        ("silence_duration_ms", True, "silence_duration_ms: expected an integer"),
        ("eagerness", "High", "eagerness: expected one of auto, low, medium, high, got 'High'"),
        ("create_response", 1, "create_response: expected True or False, got 1"),
        ("interrupt_response", "no", "interrupt_response: expected True or False, got 'no'"),
        ("idle_timeout_ms", 0, "idle_timeout_ms: expected an integer >= 1 and <= 3600000, got 0"),
    ],
)
def test_wrong_settings(name: str, value: object, message: str) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(InvalidRequest) as error:
        TurnDetection(**wrong)
    assert message in str(error.value)


def test_numbers_of_numpy_become_plain() -> None:
    settings = TurnDetection(
        threshold=np.float32(0.25),  # type: ignore[arg-type]
        silence_duration_ms=np.int64(200),  # type: ignore[arg-type]
        create_response=np.bool_(False),  # type: ignore[arg-type]
    )
    assert settings == TurnDetection(threshold=0.25, silence_duration_ms=200, create_response=False)
    assert type(settings.threshold) is float and type(settings.silence_duration_ms) is int
    assert settings.create_response is False
