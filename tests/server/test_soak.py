"""Less than a minute of many clients, good and bad; `make soak` takes an hour."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from server_process import server_process

SOAK_S = 40.0


def module() -> Any:
    spec = importlib.util.spec_from_file_location("soak", Path(__file__).with_name("soak.py"))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.slow
@pytest.mark.long
def test_nothing_is_lost_mixed_up_or_leaked() -> None:
    with server_process("--max-body-mb", "1", limit_s=600) as server:
        seen = asyncio.run(module().soak(server, SOAK_S))
    assert seen.wrong == []
    assert seen.leaks() == []
    assert min(seen.num_right, seen.num_left, seen.num_bad) > 10
