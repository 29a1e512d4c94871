"""An engine of the packaged model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from antiphon import AsyncEngine


@pytest.fixture(scope="module")
def speaking_engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(device="cpu", progress=False, kv_cache_bytes=64 << 20)
    yield engine
    engine.close()
