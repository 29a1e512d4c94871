"""The engine's stream, with stand-ins for CUDA's: the order of what is launched holds across its borders."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from antiphon.device.urgent import UrgentStream


def test_a_cpu_has_none() -> None:
    urgent = UrgentStream(torch.device("cpu"))
    with urgent.inside():
        assert urgent.stream is None


def test_what_is_inside_lies_between_what_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Stream:
        def __init__(self, device: Any = None, priority: int = 0, name: str = "urgent") -> None:
            self.name, self.priority = name, priority

        def wait_stream(self, other: Stream) -> None:
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def entered(what: Any) -> Any:
        name = getattr(what, "name", what)
        calls.append(f"in {name}")
        yield
        calls.append(f"out of {name}")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(name="default"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "device", entered)
    urgent = UrgentStream(torch.device("cuda:1"))
    assert urgent.stream.priority == -1
    with pytest.raises(RuntimeError, match="a step failed"), urgent.inside():
        raise RuntimeError("a step failed")
    assert calls == [
        "in cuda:1",
        "urgent waits for default",
        "in urgent",
        "default waits for urgent",
    ]
    calls.clear()
    with urgent.inside():
        calls.append("a step")
    assert calls[1:-1] == [
        "urgent waits for default",
        "in urgent",
        "a step",
        "out of urgent",
        "default waits for urgent",
    ]
